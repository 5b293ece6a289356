"""What a backbone makes of its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from retention.errors import ConfigError
from retention.models.backbone import Pretrained, Scratch

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def saved_bytes(encoder: nn.Module) -> int:
    """Bytes that a forward pass in training keeps for the backward pass."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    encoder.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        encoder(input_ids=torch.ones(2, 20, dtype=torch.long))
    return total


def encoder(family: str, **settings: Any) -> nn.Module:
    return Scratch(name="small", model_type=family, fields=SMALL, **settings).encoder(40)


def test_recomputing_layers_keeps_less() -> None:
    kept = {flag: saved_bytes(encoder("bert", gradient_checkpointing=flag)) for flag in (False, True)}
    assert kept[True] < kept[False] / 3


def test_a_family_that_cannot_recompute_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.gradient_checkpointing: mpnet cannot recompute"):
        encoder("mpnet", gradient_checkpointing=True)


def test_recomputed_layers_hold_no_gate() -> None:
    backbone = Scratch(name="small", model_type="bert", fields=SMALL, gradient_checkpointing=True)
    backbone.check_prune_at("after_layer")
    with pytest.raises(
        ConfigError, match=r"prune_at: must be one of after_layer with small whose layers are recomputed"
    ):
        backbone.check_prune_at("after_attention")
    Scratch(name="small", model_type="bert", fields=SMALL).check_prune_at("after_attention")


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "mpnet", "modernbert", "deberta-v2", "big_bird", "t5", "longformer", "led"]
)
def test_dropout_of_the_checkpoint_is_replaced(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    config = Pretrained(name="x", path=str(tmp_path), hidden_dropout=0.25, attention_dropout=0.0).config().to_dict()
    of_heads = ("classif", "qa_", "pooler_", "summary_")
    shares = {k: v for k, v in config.items() if "dropout" in k and not any(word in k for word in of_heads)}
    attention = {key: value for key, value in shares.items() if "attention" in key}
    assert set(attention.values()) <= {0.0}
    assert {value for key, value in shares.items() if key not in attention} == {0.25}


@pytest.mark.parametrize("key", ["hidden_dropout", "attention_dropout"])
def test_dropout_out_of_range_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: must be in \[0, 1\) or null, got 1.0"):
        Pretrained(name="x", path="x", **{key: 1.0})
