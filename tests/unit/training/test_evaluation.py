"""Test the check of outputs."""

from __future__ import annotations

import pytest
import torch

from retention.errors import TrainingError
from retention.training.evaluation import check_output


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_without_probabilities_are_refused(value: float) -> None:
    """An overflow ends in NaN on some processors and in +inf on others; softmax makes NaN of both."""
    logits = torch.zeros(4, 3)
    logits[2, 1] = value
    assert logits.softmax(dim=-1).isnan().any()
    with pytest.raises(TrainingError, match="NaN or infinite"):
        check_output(logits)


def test_masked_classes_are_accepted() -> None:
    logits = torch.zeros(4, 3)
    logits[:, 0] = -torch.inf
    assert logits.softmax(dim=-1).isfinite().all()
    check_output(logits)
