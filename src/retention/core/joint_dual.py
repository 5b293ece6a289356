"""Multipliers that move in the step of everything else (paper, Table 3, no alternating optimisation)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retention.core.duals import AscentDual


class JointDual(AscentDual):
    """Descent on the model and ascent on lambda in one and the same optimiser step, at the policy's learning rate.

    The multipliers are parameters; the penalty has value lambda slack, its gradient in lambda is turned round, so the
    optimiser that descends on everything ascends on them. After each step they are brought back to lambda >= 0.

    Differs from the paper: it does not say how its joint step is taken; the quadratic term of ``AscentDual`` is kept,
    so that only the alternation is taken away.

    Args:
        augmented: weight of the quadratic term, >= 0; 0 = the paper's Lagrangian.
        normalised, count: see ``AscentDual``.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, *, augmented: float = 10.0, normalised: bool = True, count: str = "sigmoid") -> None:
        super().__init__(augmented=augmented, normalised=normalised, count=count)

    def setup(self, num_gates: int) -> None:
        self.multipliers = nn.Parameter(torch.zeros(num_gates))

    def penalty(self, slack: Tensor) -> Tensor:
        turned = 2 * self.multipliers.detach() - self.multipliers
        quadratic = 0.5 * self.augmented * slack.square()
        return (turned * slack.detach() + self.multipliers.detach() * (slack - slack.detach()) + quadratic).sum()

    def step(self, slack: Tensor) -> None:
        """The optimiser has moved the multipliers already."""
        with torch.no_grad():
            self.multipliers.clamp_(min=0.0)
