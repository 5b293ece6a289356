"""Parameter groups, the schedule of the rate, and the state of the generators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retention.errors import ConfigError
from retention.training.optimization import AdamWSettings, restore_rng, rng_state

MODEL = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(3), "frozen": nn.Embedding(5, 3)})
POLICY = nn.Linear(3, 1)


def built(policy: nn.Module = POLICY, steps: int = 10, **settings: Any) -> Any:
    MODEL["frozen"].requires_grad_(False)
    return AdamWSettings(**settings).build(MODEL.named_parameters(), policy, steps)


def names(group: dict[str, Any]) -> set[str]:
    every = {**{f"model.{n}": p for n, p in MODEL.named_parameters()}}
    every |= {f"policy.{n}": p for n, p in POLICY.named_parameters()}
    return {name for name, parameter in every.items() if any(parameter is other for other in group["params"])}


def test_only_matrices_decay_and_the_policy_has_its_own_rate() -> None:
    groups = built(lr=0.5, policy_lr=0.25, weight_decay=0.125)["optimizer"].param_groups
    found = {(group["initial_lr"], group["weight_decay"]): names(group) for group in groups}
    assert found == {
        (0.5, 0.125): {"model.linear.weight"},
        (0.5, 0.0): {"model.linear.bias", "model.norm.weight", "model.norm.bias"},
        (0.25, 0.125): {"policy.weight"},
        (0.25, 0.0): {"policy.bias"},
    }


def test_a_policy_that_learns_nothing_adds_no_group() -> None:
    assert len(built(policy=nn.Identity())["optimizer"].param_groups) == 2


def rates(steps: int, warmup: float) -> list[float]:
    """Rate in force at every step, and after the last."""
    made = built(steps=steps, warmup=warmup, lr=1.0)
    assert made["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(steps):
        found.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return [*found, made["optimizer"].param_groups[0]["lr"]]


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    assert rates(10, 0.2) == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0])


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.06), (1, 0.0), (3, 0.99), (7, 0.0)])
def test_every_schedule_ends_at_zero_and_never_starts_there(steps: int, warmup: float) -> None:
    found = rates(steps, warmup)
    assert found[-1] == 0.0
    assert all(0.0 < rate <= 1.0 for rate in found[:-1])


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        AdamWSettings(lr=0.0, policy_lr=-1.0, weight_decay=-0.1, warmup=1.0)
    assert [problem.key for problem in caught.value.problems] == ["lr", "policy_lr", "weight_decay", "warmup"]


def test_generators_go_back_to_where_they_were() -> None:
    state = rng_state()
    first = torch.rand(4)
    assert not torch.equal(first, torch.rand(4))
    restore_rng(state)
    assert torch.equal(first, torch.rand(4))
