"""Test the warning about a policy in training mode that no optimizer updates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.policies import Adaptive, Truncate, retain


def train(model: Any, policy: Any, parameters: list[Tensor], ids: Tensor, **settings: Any) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **settings)
    with retain(model, policy):
        for _ in range(3):
            optimizer.zero_grad()
            model(input_ids=ids).last_hidden_state.sum().backward()
            optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_policy_that_no_optimizer_updates_is_reported(fused: bool, tiny: Callable[..., Any], ids: Tensor) -> None:
    """A trainer that gets the model alone does not know the policy's parameters.

    Fused optimizers update weights without counting it as a new version of the tensor.
    """
    model, policy = tiny().train(), Adaptive(rho=0.5).train()
    with pytest.warns(UserWarning, match=r"add policy\.parameters\(\) to the optimizer") as caught:
        train(model, policy, list(model.parameters()), ids, fused=fused)
    assert len([each for each in caught if "policy.parameters" in str(each.message)]) == 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", ["both_trained", "frozen_encoder", "evaluation_mode", "warmup", "nothing_to_learn"])
def test_other_training_gives_no_warning(case: str, fused: bool, tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny().train()
    policy: Any = Truncate(rho=0.5) if case == "nothing_to_learn" else Adaptive(rho=0.5)
    policy.train(case != "evaluation_mode")
    policy.phase = "warmup" if case == "warmup" else "hard"
    retain(model, policy)  # builds it
    learned = list(policy.parameters()) if case in ("both_trained", "frozen_encoder") else []
    if case == "frozen_encoder":
        model.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = [*(each for each in model.parameters() if each.requires_grad), *learned]
        train(model, policy, trained, ids, fused=fused)


def test_training_mode_without_gradients_is_reported(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with (
        torch.no_grad(),
        retain(model, Adaptive(rho=0.5).train()),
        pytest.warns(UserWarning, match=r"call policy\.eval\(\) for inference"),
    ):
        model(input_ids=ids)
