"""Compute the running summary of eq. 3 for all positions at once."""

from __future__ import annotations

import torch
from torch import Tensor


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
    step, length = 1, states.shape[1]
    while step < length:
        value = torch.cat([value[:, :step], value[:, step:] + retained[:, step:] * value[:, :-step]], dim=1)
        retained = torch.cat([retained[:, :step], retained[:, step:] * retained[:, :-step]], dim=1)
        step *= 2
    return torch.cat([torch.zeros_like(value[:, :1]), value[:, :-1]], dim=1)
