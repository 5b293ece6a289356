"""Tests of parameter groups and the learning-rate schedule."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from retention.errors import ConfigError
from retention.training.optimization import AdamWSettings

MODEL = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(3), "frozen": nn.Embedding(5, 3)})
POLICY = nn.Linear(3, 1)


def build(policy: nn.Module = POLICY, steps: int = 10, **settings: Any) -> Any:
    MODEL["frozen"].requires_grad_(False)
    return AdamWSettings(**settings).build(MODEL.named_parameters(), policy, steps)


def names(group: dict[str, Any]) -> set[str]:
    parameters = {**{f"model.{n}": p for n, p in MODEL.named_parameters()}}
    parameters |= {f"policy.{n}": p for n, p in POLICY.named_parameters()}
    return {name for name, parameter in parameters.items() if any(parameter is other for other in group["params"])}


def test_groups_decay_matrices_only_and_give_policy_its_rate() -> None:
    groups = build(lr=0.5, policy_lr=0.25, weight_decay=0.125)["optimizer"].param_groups
    by_settings = {(group["initial_lr"], group["weight_decay"]): names(group) for group in groups}
    assert by_settings == {
        (0.5, 0.125): {"model.linear.weight"},
        (0.5, 0.0): {"model.linear.bias", "model.norm.weight", "model.norm.bias"},
        (0.25, 0.125): {"policy.weight"},
        (0.25, 0.0): {"policy.bias"},
    }


def test_policy_without_parameters_adds_no_group() -> None:
    assert len(build(policy=nn.Identity())["optimizer"].param_groups) == 2


def learning_rates(steps: int, warmup: float) -> list[float]:
    """Return the learning rate of every step, and after the last."""
    built = build(steps=steps, warmup=warmup, lr=1.0)
    assert built["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(steps):
        rates.append(built["optimizer"].param_groups[0]["lr"])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    return [*rates, built["optimizer"].param_groups[0]["lr"]]


def test_rate_rises_to_peak_and_falls_to_zero() -> None:
    expected = [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]
    assert learning_rates(10, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.06), (1, 0.0), (3, 0.99), (7, 0.0)])
def test_rate_ends_at_zero_and_never_starts_there(steps: int, warmup: float) -> None:
    rates = learning_rates(steps, warmup)
    assert rates[-1] == 0.0
    assert all(0.0 < rate <= 1.0 for rate in rates[:-1])


@pytest.mark.parametrize(("key", "value"), [("lr", 0.0), ("policy_lr", -1.0), ("weight_decay", -0.1), ("warmup", 1.0)])
def test_invalid_setting_raises(key: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        AdamWSettings(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [key]
