"""Test that a policy serves only encoders of the shape that it was built for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from retention.errors import ConfigError
from retention.policies import Adaptive, RetentionPolicy, Truncate, retain


@pytest.mark.parametrize("policy", [Truncate, Adaptive])
@pytest.mark.parametrize(
    "changes", [{"layers": 6}, {"hidden_size": 64}, {"layers": 2}], ids=["deeper", "wider", "shallower"]
)
def test_policy_of_another_shape_is_refused(
    changes: dict[str, int], policy: type[RetentionPolicy], tiny: Callable[..., Any]
) -> None:
    built = policy(rho=0.3)
    retain(tiny(), built)
    with pytest.raises(ConfigError, match=r"was built for an encoder of 4 layers .*make a new policy object"):
        retain(tiny(**changes), built)


def test_policy_serves_a_second_model_of_the_same_shape(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    policy, kept = Adaptive(rho=0.3).eval(), []
    for model in (tiny(), tiny()):
        with retain(model, policy) as retainer:
            states(model, input_ids=ids)
        kept.append({layer: each.tolist() for layer, each in retainer.report.kept.items()})
    assert kept[0] == kept[1] and sorted(kept[0]) == [0, 1, 2]


def test_budget_is_the_mean_over_the_gates_of_the_model(
    tiny: Callable[..., Any], states: Callable[..., Tensor]
) -> None:
    import torch

    model = tiny(layers=12)
    with retain(model, Truncate(rho=0.3).eval()) as retainer:
        states(model, input_ids=torch.randint(5, 50, (1, 200)))
    kept = [int(retainer.report.kept[layer]) for layer in range(11)]
    assert sum(kept) / len(kept) / 200 == pytest.approx(0.3, abs=0.01)
