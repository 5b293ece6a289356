"""Test models in half precision with policies that have weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.policies import Adaptive, RetentionPolicy, Transkimmer, retain


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "policy",
    [Adaptive, Transkimmer, lambda rho: Adaptive(rho=rho, token_fusion=True)],
    ids=["adaptive", "transkimmer", "token_fusion"],
)
def test_learned_scorers_serve_a_model_in_half_precision(
    policy: Callable[..., RetentionPolicy], dtype: torch.dtype, tiny: Callable[..., Any], ids: Tensor
) -> None:
    """Scores are computed in the dtype of the policy's weights."""
    outputs, kept = [], []
    for kind in (torch.float32, dtype):
        torch.manual_seed(1)
        model = tiny(initializer_range=0.2).to(kind)
        with torch.no_grad(), retain(model, policy(rho=0.5).eval(), protected_ids=[1]) as retainer:
            outputs.append(model(input_ids=ids).last_hidden_state)
        kept.append([set(row) for row in retainer.report.keep_indices[0].tolist()])
    assert outputs[1].dtype == dtype and outputs[1].shape == (2, 20, 32) and torch.isfinite(outputs[1]).all()
    for exact, rounded in zip(*kept, strict=True):  # rounding can exchange neighbors in the ranking
        assert len(exact & rounded) / len(exact | rounded) > 0.8


def test_policy_in_half_precision_as_well_is_used_as_it_is(tiny: Callable[..., Any], ids: Tensor) -> None:
    model, policy = tiny().half(), Adaptive(rho=0.5).eval()
    retainer = retain(model, policy)
    policy.half()
    with torch.no_grad(), retainer:
        assert model(input_ids=ids).last_hidden_state.dtype == torch.float16
