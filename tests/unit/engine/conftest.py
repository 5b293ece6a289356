"""Provide tiny encoders with full attention in every layer, by family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.engine import encoder_of

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
TINY: dict[str, dict[str, Any]] = {
    "bert": {**SMALL, "num_hidden_layers": 4},
    "roberta": {**SMALL, "num_hidden_layers": 4},
    "xlm-roberta": {**SMALL, "num_hidden_layers": 4},
    "electra": {**SMALL, "num_hidden_layers": 4, "embedding_size": 16},
    "mpnet": {**SMALL, "num_hidden_layers": 4},
    "big_bird": {**SMALL, "num_hidden_layers": 4, "attention_type": "original_full"},
    "distilbert": {"vocab_size": 60, "dim": 32, "n_heads": 4, "hidden_dim": 64, "n_layers": 4},
    "deberta-v2": {
        **SMALL,
        "num_hidden_layers": 4,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "max_relative_positions": 60,
    },
    "t5": {"vocab_size": 60, "d_model": 32, "num_heads": 4, "d_kv": 12, "d_ff": 64, "num_layers": 4},
    "led": {
        "vocab_size": 60,
        "d_model": 32,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "attention_window": [200] * 4,
    },
    "longformer": {**SMALL, "num_hidden_layers": 4, "attention_window": 200},
    "modernbert": {
        **SMALL,
        "num_hidden_layers": 4,
        "global_attn_every_n_layers": 1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Return ``tiny(family, **changes)``, which builds a random encoder with eager attention, in evaluation mode."""
    from transformers import AutoConfig, AutoModel

    def build(family: str, **changes: Any) -> Any:
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**TINY[family], **changes})
        return encoder_of(AutoModel.from_config(config, attn_implementation="eager")).eval()

    return build
