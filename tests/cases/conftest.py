"""Provide small random models; each file here tests one kind of trouble that users of such libraries have reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Return ``tiny(class_name, layers, **changes)``, which builds a random BERT far from uniform attention."""
    import transformers

    def build(class_name: str = "BertModel", layers: int = 4, **changes: Any) -> Any:
        torch.manual_seed(0)
        fields = {
            "vocab_size": 50,
            "num_hidden_layers": layers,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.5,
        }
        return getattr(transformers, class_name)(transformers.BertConfig(**{**fields, **changes})).eval()

    return build


@pytest.fixture
def ids() -> Tensor:
    """Return two sequences of 20 random tokens that start with token 1."""
    tokens = torch.randint(5, 50, (2, 20), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 1
    return tokens


@pytest.fixture
def states() -> Callable[..., Tensor]:
    """Return ``states(model, **inputs)``, the last hidden states without gradients."""

    def run(model: nn.Module, **inputs: Any) -> Tensor:
        with torch.no_grad():
            output: Tensor = model(**inputs).last_hidden_state
        return output

    return run
