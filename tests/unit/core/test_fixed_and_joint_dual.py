"""Test the ablated duals of Table 3: a constant multiplier, and one updated in the optimizer step of the model."""

from __future__ import annotations

import pytest
import torch

from retention.core.duals import FixedDual, JointDual
from retention.errors import ConfigError


def test_fixed_multiplier_scales_the_slack_and_never_moves() -> None:
    dual = FixedDual(value=2.0)
    dual.setup(2)
    slack = torch.tensor([0.5, -0.25], requires_grad=True)
    dual.penalty(slack).backward()
    assert slack.grad.tolist() == [2.0, 2.0] and dual.penalty(slack).item() == 0.5
    dual.step(torch.tensor([1.0, 1.0]))
    assert dual.multipliers.tolist() == [2.0, 2.0] and not list(dual.parameters())


def test_fixed_multiplier_must_not_be_negative() -> None:
    with pytest.raises(ConfigError, match=r"value: .* got -1"):
        FixedDual(value=-1.0)


def test_joint_multipliers_ascend_in_the_optimizer_step() -> None:
    dual = JointDual(augmented=0.0)
    dual.setup(2)
    with torch.no_grad():
        dual.multipliers.fill_(0.3)
    slack = torch.tensor([0.5, -0.9], requires_grad=True)
    loss = dual.penalty(slack)
    assert loss.item() == pytest.approx(0.3 * (0.5 - 0.9))
    loss.backward()
    torch.testing.assert_close(slack.grad, torch.tensor([0.3, 0.3]))
    torch.optim.SGD(dual.parameters(), lr=1.0).step()
    torch.testing.assert_close(dual.multipliers.detach(), torch.tensor([0.8, -0.6]))
    dual.step(slack.detach())
    torch.testing.assert_close(dual.multipliers.detach(), torch.tensor([0.8, 0.0]))
