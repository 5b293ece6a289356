"""Tests of number formats of an encoder, alone and together with token removal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention import Adaptive, RetentionEncoder
from retention.errors import ConfigError
from retention.models.precision import in_precision

BATCH = {
    "input_ids": torch.arange(4, 44).view(2, 20),
    "attention_mask": torch.tensor([[1] * 20, [1] * 9 + [0] * 11]),
}


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_retained_states_are_close_to_float32(precision: str, tiny_bert: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = RetentionEncoder(tiny_bert(initializer_range=0.3), Adaptive(rho=0.5)).eval()
    with torch.no_grad():
        before = model.encode(**BATCH).hidden_states
        rounded = in_precision(model, precision).encode(**BATCH).hidden_states.float()
        after = model.encode(**BATCH).hidden_states
    assert torch.equal(after, before)  # the model itself is not changed
    assert rounded.shape == before.shape
    assert F.cosine_similarity(rounded, before, dim=-1)[0].mean() > 0.95
    assert not torch.allclose(rounded, before, atol=1e-6)  # control: something was rounded


def test_scorers_stay_in_float32(tiny_bert: Callable[..., Any]) -> None:
    model = in_precision(RetentionEncoder(tiny_bert(), Adaptive(rho=0.5)).eval(), "bfloat16")
    kinds = {name.partition(".")[0]: each.dtype for name, each in model.named_parameters()}
    assert {each.dtype for each in model.policy.parameters()} == {torch.float32}
    assert torch.bfloat16 in kinds.values()


def test_float32_is_the_model_itself(tiny_bert: Callable[..., Any]) -> None:
    model = tiny_bert().eval()
    assert in_precision(model, "float32") is model


def test_unknown_precision_is_refused(tiny_bert: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16, int8"):
        in_precision(tiny_bert().eval(), "fp4")
