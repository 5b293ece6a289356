"""Test the threshold of early exits against a search over all of them."""

from __future__ import annotations

import pytest
import torch

from retention.models.exit_threshold import NEVER, exit_threshold, total_cost


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.9])
def test_threshold_is_the_largest_within_the_budget(share: float) -> None:
    generator = torch.Generator().manual_seed(3)
    confidences = torch.rand(3, 50, generator=generator)
    costs = torch.rand(4, 50, generator=generator).cumsum(0)
    budget = share * float(costs[-1].sum())
    threshold = exit_threshold(confidences, costs, budget)
    assert total_cost(confidences, costs, threshold) <= budget
    larger = confidences[confidences > threshold].tolist()
    assert larger and all(total_cost(confidences, costs, each) > budget for each in larger)


def test_rows_leave_at_the_first_confident_head() -> None:
    confidences = torch.tensor([[0.9, 0.5, 0.5], [0.2, 0.8, 0.5]])
    costs = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    assert total_cost(confidences, costs, 0.8) == 1 + 2 + 4
    assert total_cost(confidences, costs, 0.95) == 12
    assert exit_threshold(confidences, costs, 7.0) == pytest.approx(0.8)
    assert exit_threshold(confidences, costs, 12.0) == NEVER


def test_unreachable_budget_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert exit_threshold(torch.tensor([[0.9]]), torch.tensor([[2.0], [3.0]]), 1.0) == 0.0
    assert "raise rho or lower exits" in caplog.text
