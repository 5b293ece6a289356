"""A multiplier that never moves: the budget is a price, not a constraint (paper, Table 3, fixed lambda)."""

from __future__ import annotations

import torch
from torch import Tensor

from retention.core.duals import AscentDual
from retention.errors import Checks


class FixedDual(AscentDual):
    """The Lagrangian of eq. 4 with a constant lambda; what it keeps in training depends on lambda, not on the budget.

    At test time the top M stay all the same (eq. 7), so the budget is met there.

    Differs from the paper: it does not say which constant its ablation uses; 1 is ours.

    Args:
        value: lambda, >= 0.
        normalised, count: see ``AscentDual``.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, *, value: float = 1.0, normalised: bool = True, count: str = "sigmoid") -> None:
        checks = Checks()
        checks.require(value >= 0, "value", f"the multiplier must be >= 0, got {value}")
        checks.gather(lambda: AscentDual(normalised=normalised, count=count))
        checks.finish()
        super().__init__(augmented=0.0, normalised=normalised, count=count)
        self.value = value

    def setup(self, num_gates: int) -> None:
        super().setup(num_gates)
        self.multipliers = torch.full_like(self.multipliers, self.value)

    def step(self, slack: Tensor) -> None:
        """A constant does not move."""
