"""What passes between encoder and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Batch = dict[str, Any]  # tensors; tasks that score texts add lists of strings


@dataclass(frozen=True)
class Encoded:
    """What a head reads.

    Attributes:
        hidden_states: [B, M, D]; M = T where dropped tokens are forwarded or nothing was removed.
        weights: [B, M] float in [0, 1]; 0 = padding, the product of the gates while they are soft.
        positions: [B, M] long, original positions.
    """

    hidden_states: Tensor
    weights: Tensor
    positions: Tensor
