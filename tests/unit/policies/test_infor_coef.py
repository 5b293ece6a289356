"""Test Infor-Coef."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retention.errors import ConfigError
from retention.policies import InforCoef


def test_budget_loss_includes_norm_and_entropy(in_training: Any, make_view: Any, decide: Any) -> None:
    policy, view = in_training(InforCoef(rho=0.4, norm=1.0, entropy=0.0), "hard"), make_view((20, 13))
    keep = decide(policy, view).keep_mask
    norm = torch.stack([view.hidden_states[row][keep[row]].norm() for row in range(2)]).mean()
    torch.testing.assert_close(policy.budget_loss() - policy.dual.penalty(policy.budget_slack()), norm)
    policy = in_training(InforCoef(rho=0.4, norm=0.0, entropy=1.0), "hard")
    decide(policy, view)
    logits = policy.score(view)[view.valid & ~view.protected]
    entropy = F.binary_cross_entropy_with_logits(logits, torch.sigmoid(logits))
    torch.testing.assert_close(policy.budget_loss() - policy.dual.penalty(policy.budget_slack()), entropy)


INVALID = [("norm", -1.0), ("entropy", -1.0), ("temperature", 0.0), ("eta", 0.0), ("augmented", -1.0), ("rho", 2.0)]


@pytest.mark.parametrize(("key", "value"), INVALID)
def test_invalid_setting_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        InforCoef(**{"rho": 0.3, key: value})
    assert [problem.key for problem in caught.value.problems] == [key]
