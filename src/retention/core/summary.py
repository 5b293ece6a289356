"""The running summary of eq. 3, computed for all time steps at once."""

from __future__ import annotations

import torch
from torch import Tensor


def previous_summary(states: Tensor, decay: float, weights: Tensor | None = None) -> Tensor:
    """Exponential running mean of the states *before* each position, m_{t-1} of eq. 3.

    m_0 = 0 and m_t = a_t m_{t-1} + (1 - a_t) h_t with a_t = 1 - w_t (1 - decay). With weight 1 this is eq. 3; with
    weight 0 the token leaves no trace, exactly as if it had been removed, so soft gates and real removal give a later
    scorer the same summary.

    The linear recurrence is solved by doubling: ceil(log2 N) vectorised passes, no loop over tokens.

    Args:
        states: h, [B, N, R].
        decay: g in [0, 1], the share of the old summary that is kept (the paper's summary gamma).
        weights: w in [0, 1], [B, N]; all ones if not given. Pass the attention mask or the cumulative gates.

    Returns:
        [B, N, R]; the first position gets zeros.
    """
    if weights is None:
        weights = torch.ones(states.shape[:2], dtype=states.dtype, device=states.device)
    take = (weights.to(states.dtype) * (1.0 - decay)).unsqueeze(-1)
    carry, value = 1.0 - take, take * states
    step, length = 1, states.shape[1]
    while step < length:
        value = torch.cat([value[:, :step], value[:, step:] + carry[:, step:] * value[:, :-step]], dim=1)
        carry = torch.cat([carry[:, :step], carry[:, step:] * carry[:, :-step]], dim=1)
        step *= 2
    return torch.cat([torch.zeros_like(value[:, :1]), value[:, :-1]], dim=1)
