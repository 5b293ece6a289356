"""Compute the running summary of eq. 3 for all positions at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_NEGLIGIBLE = 1e-16  # weight of a state in a running mean that float32 cannot resolve


def previous_summary(states: Tensor, decay: float, weights: Tensor | None = None) -> Tensor:
    """Compute the exponential running mean of the states before each position, m_{t-1} of eq. 3.

    m_0 = 0 and m_t = a_t m_{t-1} + (1 - a_t) h_t with a_t = 1 - w_t (1 - decay). Weight 1 gives eq. 3. Weight 0 skips
    the token as if it had been removed, so soft gates and removal give a later scorer the same summary.

    The linear recurrence is solved by doubling: ceil(log2 N) vectorized passes, no loop over tokens.

    Args:
        states: h, [B, N, R].
        decay: g in [0, 1], weight of the old summary (called gamma in eq. 3 of the paper).
        weights: w in [0, 1], [B, N]; all ones by default. Pass the attention mask or the product of the gates.

    Returns:
        [B, N, R]; zeros at the first position.
    """
    if weights is None:
        weights = torch.ones(states.shape[:2], dtype=states.dtype, device=states.device)
    update = (weights.to(states.dtype) * (1.0 - decay)).unsqueeze(-1)
    retained, value = 1.0 - update, update * states
    if torch.compiler.is_exporting():
        return _shifted(_recurrence_of_any_length(retained, value, decay), 1, 0.0)
    step, length = 1, states.shape[1]
    while step < length:
        value = torch.cat([value[:, :step], value[:, step:] + retained[:, step:] * value[:, :-step]], dim=1)
        retained = torch.cat([retained[:, :step], retained[:, step:] * retained[:, :-step]], dim=1)
        step *= 2
    return torch.cat([torch.zeros_like(value[:, :1]), value[:, :-1]], dim=1)


def _recurrence_of_any_length(retained: Tensor, value: Tensor, decay: float) -> Tensor:
    """Solve the recurrence in a graph that is recorded for every length N, [B, N, R].

    The number of passes must not depend on N, so it follows from the decay: tokens further back than the window have a
    weight below float32 resolution, if tokens of weight 0 (padding) are at the ends of the sequence.
    """
    if decay == 1.0:
        return value  # all zeros: the summary is disabled
    window = math.log(_NEGLIGIBLE) / math.log(decay) if decay > 0.0 else 1.0
    for power in range(math.ceil(math.log2(window)) if window > 1.0 else 0):
        value = value + retained * _shifted(value, 2**power, 0.0)
        retained = retained * _shifted(retained, 2**power, 1.0)
    return value


def _shifted(values: Tensor, step: int, fill: float) -> Tensor:
    """Move values [B, N, R] by ``step`` positions towards the end; the first positions get ``fill``."""
    return F.pad(values, (0, 0, step, 0), value=fill)[:, : values.shape[1]]
