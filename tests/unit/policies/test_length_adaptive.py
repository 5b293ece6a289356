"""Test the Length-Adaptive Transformer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.errors import ConfigError
from retention.policies import LengthAdaptive


def length_adaptive(build_policy: Any, **settings: Any) -> Any:
    return build_policy(LengthAdaptive(**{"rho": 0.4, "smallest": 0.2, "slope": 0.5, **settings}))


def test_batch_contains_the_full_the_smallest_and_random_lengths(build_policy: Any) -> None:
    policy = length_adaptive(build_policy).train()
    ratios = policy.sample_keep_ratios(8)
    lowest = policy.smallest_ratios.double()
    full = (ratios == 1).all(0)
    smallest = torch.isclose(ratios, lowest.unsqueeze(1)).all(0)
    assert full.sum() == 2 and smallest.sum() == 2
    between = ratios[:, ~full & ~smallest]
    assert ((between < 1) & (between > lowest.unsqueeze(1))).all() and (ratios[1:] <= ratios[:-1]).all()
    assert not torch.equal(policy.sample_keep_ratios(8), ratios)


def test_lengths_are_sampled_in_training_only(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = length_adaptive(build_policy), make_view((40,) * 8, attention_statistics=torch.rand(8, 40))
    kept = decide(policy.train(), view).keep_mask.sum(1)
    assert kept.max() == 40 and kept.min() == int(policy.smallest_ratios[0] * 40 + 1e-6)
    assert set(decide(policy.eval(), view).keep_mask.sum(1).tolist()) == {int(policy.budget.keep_ratios()[0] * 40)}


def test_smallest_ratio_is_annealed(build_policy: Any) -> None:
    policy = length_adaptive(build_policy).train()
    policy.anneal = 0.0
    assert (policy.sample_keep_ratios(8) == 1).all()


def test_rho_below_the_smallest_trained_ratio_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"smallest: .*at most rho.* must be in \(0, 0.05\]"):
        LengthAdaptive(rho=0.05)
