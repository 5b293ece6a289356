"""Fixtures of exported models: tiny encoders of several families with a policy, a tokenizer, and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tests.unit.pretrained.conftest import word_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retention import Adaptive, Embedder
from retention.pretrained.sentence_files import EmbeddingSettings

CLASSES = {"bert": "Bert", "mpnet": "MPNet", "distilbert": "DistilBert", "roberta": "Roberta"}


def tiny_encoder(family: str) -> Any:
    """Return a random encoder of three layers, far from uniform attention."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 44, "max_position_embeddings": 40, "initializer_range": 0.3}
    if family == "distilbert":
        sizes |= {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    else:
        sizes |= {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    pads = {"roberta": 0, "mpnet": 0}
    config = getattr(transformers, f"{CLASSES[family]}Config")(**sizes, pad_token_id=pads.get(family, 0))
    options = {} if family == "distilbert" else {"add_pooling_layer": False}
    return getattr(transformers, f"{CLASSES[family]}Model")(config, **options).eval()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of 40 words."""
    return word_tokenizer()


@pytest.fixture
def make_embedder(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Embedder]:
    """``make_embedder(family, policy, **settings)``: an embedder; its scorers rank tokens clearly apart."""

    def build(family: str = "bert", policy: Any = None, **settings: Any) -> Embedder:
        policy = Adaptive(rho=0.5, schedule="flat") if policy is None else policy
        embedder = Embedder.build(
            tiny_encoder(family), tokenizer, policy, EmbeddingSettings(**{"normalize": True, **settings})
        )
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.normal_()
        return embedder.eval()

    return build


def batch_of(lengths: list[int], width: int | None = None) -> dict[str, Tensor]:
    """Return a batch of random tokens with [CLS] first and [SEP] last, padded on the right."""
    generator = torch.Generator().manual_seed(len(lengths))
    width = max(lengths) if width is None else width
    input_ids = torch.randint(4, 44, (len(lengths), width), generator=generator)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    input_ids[:, 0] = 2
    input_ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 3
    return {"input_ids": input_ids * mask, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(input_ids)}


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    """Batches of mixed lengths, of one text, of three tokens, without padding, and with columns of padding only."""
    return [
        batch_of([5, 20, 11]),
        batch_of([17]),
        batch_of([3]),
        batch_of([2, 2]),
        batch_of([9, 9, 9, 9]),
        batch_of([6, 3], width=30),
        batch_of([32]),
    ]
