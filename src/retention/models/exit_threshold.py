"""Choose the confidence at which rows exit, for a budget of FLOPs."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)

NEVER = 2.0  # a threshold above every probability


def exit_threshold(confidences: Tensor, costs: Tensor, budget: float) -> float:
    """Return the largest threshold at which the rows together cost no more than the budget.

    Args:
        confidences: [E, R] in [0, 1], of each row at each exit, in the order of the layers.
        costs: [E + 1, R], FLOPs of each row up to each exit, and through all layers.
        budget: FLOPs of all rows together.

    Returns:
        A threshold in [0, 1] that a row's confidence has to reach; 2, so that no row exits early, if all layers are
        within the budget; 0, with a warning, if the first exit of all rows is not.
    """
    candidates: list[float] = [*sorted(set(confidences.flatten().tolist())), NEVER]
    low, high = -1, len(candidates) - 1  # candidates[low] is within the budget
    while low < high:
        middle = (low + high + 1) // 2
        if total_cost(confidences, costs, candidates[middle]) <= budget:
            low = middle
        else:
            high = middle - 1
    if low < 0:
        log.warning("early_exit: even the first exit of all rows costs more than rho allows; raise rho or lower exits")
        return 0.0
    return candidates[low]


def total_cost(confidences: Tensor, costs: Tensor, threshold: float) -> float:
    """Compute the FLOPs of all rows if each leaves at the first exit whose confidence reaches the threshold.

    Args:
        confidences: [E, R].
        costs: [E + 1, R].
        threshold: confidence to reach.
    """
    reached = confidences >= threshold
    first = torch.where(reached.any(0), reached.to(torch.uint8).argmax(0), len(confidences))
    return float(costs.gather(0, first.unsqueeze(0)).sum())
