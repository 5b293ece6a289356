"""Policies that rank by what the engine observed: attention top-k, H2O, key norms, length-adaptive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.errors import ConfigError
from retention.policies import RetentionPolicy
from retention.policies.attention_topk import AttentionTopK
from retention.policies.h2o import H2O
from retention.policies.key_norm import KeyNorm
from retention.policies.length_adaptive import LengthAdaptive

SHOWN = torch.tensor([[0.0, 3.0, 1.0, 2.0, 5.0, 4.0]])


@pytest.mark.parametrize(
    ("kind", "field", "kept"),
    [
        (AttentionTopK, "received_attention", [0, 4, 5]),
        (H2O, "accumulated_attention", [0, 4, 5]),
        (KeyNorm, "key_norms", [0, 2, 3]),
    ],
)
def test_the_ranking_is_what_was_observed(
    kind: Callable[..., RetentionPolicy], field: str, kept: list[int], built: Any, make_view: Any, ask: Any
) -> None:
    policy = built(kind(rho=0.5, schedule="flat")).eval()
    others = {"received_attention", "accumulated_attention", "key_norms"} - {field}
    view = make_view((6,), **{field: SHOWN}, **dict.fromkeys(others))
    assert ask(policy, view).keep_mask[0].nonzero().flatten().tolist() == kept  # token 0 is protected


@pytest.mark.parametrize("kind", [AttentionTopK, H2O, KeyNorm])
def test_without_observation_there_is_no_ranking(
    kind: Callable[..., RetentionPolicy], built: Any, make_view: Any, ask: Any
) -> None:
    with pytest.raises(RuntimeError, match="nothing was observed"):
        ask(built(kind(rho=0.5, schedule="flat")).eval(), make_view((6,)))


def adaptive(built: Any, **settings: Any) -> Any:
    return built(LengthAdaptive(**{"rho": 0.4, "smallest": 0.2, "slope": 0.5, **settings}))


def test_a_batch_holds_the_whole_sandwich(built: Any) -> None:
    policy = adaptive(built).train()
    shares = policy.draw(8)
    least = policy.least.double()
    full = (shares == 1).all(0)
    smallest = torch.isclose(shares, least.unsqueeze(1)).all(0)
    assert full.sum() == 2 and smallest.sum() == 2
    between = shares[:, ~full & ~smallest]
    assert ((between < 1) & (between > least.unsqueeze(1))).all() and (shares[1:] <= shares[:-1]).all()
    assert not torch.equal(policy.draw(8), shares)


def test_lengths_vary_in_training_only(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = adaptive(built), make_view((40,) * 8, received_attention=torch.rand(8, 40))
    kept = ask(policy.train(), view).keep_mask.sum(1)
    assert kept.max() == 40 and kept.min() == int(policy.least[0] * 40 + 1e-6)
    assert set(ask(policy.eval(), view).keep_mask.sum(1).tolist()) == {int(policy.budget.shares()[0] * 40)}


def test_the_smallest_share_is_annealed(built: Any) -> None:
    policy = adaptive(built).train()
    policy.anneal = 0.0
    assert (policy.draw(8) == 1).all()


def test_a_share_that_was_not_trained_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"smallest: must be in \(0, rho = 0.05\]"):
        LengthAdaptive(rho=0.05)
