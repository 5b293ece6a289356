"""Compare the answers of a pruned classifier with those of the unpruned one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from retention.models.soft_targets import binary_soft_target_losses, soft_target_losses

Logits = Sequence[Sequence[float]]  # [N, C]
RowValues = NDArray[np.float64]  # [N]
_CHUNK = 512  # rows whose pairs are compared at once


def class_agreement(logits: Logits, targets: Logits) -> RowValues:
    """Return 1 for each row in which both models predict the same class, else 0, [N]."""
    agree: RowValues = (np.argmax(logits, axis=1) == np.argmax(targets, axis=1)).astype(np.float64)
    return agree


def label_agreement(logits: Logits, targets: Logits) -> RowValues:
    """Return the share of each row's labels on which both models decide alike, [N] in [0, 1]."""
    agree: RowValues = ((np.asarray(logits) > 0) == (np.asarray(targets) > 0)).mean(axis=1)
    return agree


def order_agreement(logits: Logits, targets: Logits) -> RowValues:
    """Return, for each row, the share of the other rows that both models put on the same side of it, [N] in [0, 1].

    The mean over all rows is the share of pairs of rows that both models order alike. A pair that one model ties counts
    half, one that both tie counts whole. With a single row the share is 1.

    Args:
        logits: one score per row, [N, 1].
        targets: the same of the unpruned model.
    """
    ours, theirs = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (logits, targets))
    if len(ours) < 2:
        return np.ones(len(ours))
    shares = []
    for start in range(0, len(ours), _CHUNK):
        rows = slice(start, start + _CHUNK)
        signs = [np.sign(values[rows, None] - values[None, :]) for values in (ours, theirs)]
        alike = 1.0 - np.abs(signs[0] - signs[1]) / 2.0
        shares.append((alike.sum(axis=1) - 1.0) / (len(ours) - 1))  # each row ties with itself in both
    return np.concatenate(shares)


def class_divergence(logits: Logits, targets: Logits) -> float:
    """Compute KL(unpruned || pruned) of the class probabilities in nats, mean over rows."""
    return float(soft_target_losses(torch.tensor(logits), torch.tensor(targets), 1.0).mean())


def label_divergence(logits: Logits, targets: Logits) -> float:
    """Compute KL(unpruned || pruned) of the labels' probabilities in nats, summed over labels, mean over rows."""
    return float(binary_soft_target_losses(torch.tensor(logits), torch.tensor(targets), 1.0).sum(-1).mean())


def root_mean_square_error(logits: Logits, targets: Logits) -> float:
    """Compute the root of the mean squared difference of the scores."""
    return float(F.mse_loss(torch.tensor(logits), torch.tensor(targets)).sqrt())
