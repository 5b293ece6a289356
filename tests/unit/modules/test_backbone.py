"""What a backbone makes of its settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retention.errors import ConfigError
from retention.modules.backbone import Scratch

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
    backbone.check_place("after_layer")
    with pytest.raises(ConfigError, match=r"place: must be one of after_layer with small whose layers are recomputed"):
        backbone.check_place("after_attention")
    Scratch(name="small", model_type="bert", fields=SMALL).check_place("after_attention")
