"""Test the policies that rank by one observation of the engine: attention top-k, H2O and key norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.policies import H2O, AttentionTopK, KeyNorm, RetentionPolicy

VALUES = torch.tensor([[0.0, 3.0, 1.0, 2.0, 5.0, 4.0]])


@pytest.mark.parametrize(
    ("kind", "field", "kept"),
    [
        (AttentionTopK, "attention_statistics", [0, 4, 5]),
        (H2O, "attention_statistics", [0, 4, 5]),
        (KeyNorm, "key_norms", [0, 2, 3]),
    ],
)
def test_ranking_is_that_of_the_observation(
    kind: Callable[..., RetentionPolicy], field: str, kept: list[int], build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = build_policy(kind(rho=0.5, schedule="flat")).eval()
    view = make_view((6,), **{field: VALUES})
    assert decide(policy, view).keep_mask[0].nonzero().flatten().tolist() == kept  # token 0 is protected


@pytest.mark.parametrize("kind", [AttentionTopK, H2O, KeyNorm])
def test_missing_observation_is_an_error(
    kind: Callable[..., RetentionPolicy], build_policy: Any, make_view: Any, decide: Any
) -> None:
    with pytest.raises(RuntimeError, match="nothing was observed"):
        decide(build_policy(kind(rho=0.5, schedule="flat")).eval(), make_view((6,)))
