"""One set of weights for any budget: several budgets in each training step."""

from __future__ import annotations

import random
from dataclasses import dataclass

from torch import Tensor

from retention.errors import Checks

KEEP_ALL = 1.0


@dataclass(frozen=True, kw_only=True)
class BudgetSampling:
    """Which budgets a training step runs, and what those that remove tokens learn from.

    Each budget is one pass over the batch; the loss of a step is the mean over its passes. With ``sandwich`` the passes
    are keep-all, ``sampled`` random budgets, and the smallest one, and the answers of the keep-all pass teach the
    others in place (sandwich rule and in-place distillation, Yu and Huang 2019, arXiv 1903.05134; for token budgets Kim
    and Cho 2021, arXiv 2010.07003). Without it there are the random ones alone: with ``sampled=1`` and a finished
    teacher (``distill``) a step costs what an ordinary step costs.

    Cost of a step in the removal phase, in passes of the dense model: about 1 + ``low`` + sampled (low + high) / 2 with
    the sandwich, sampled (low + high) / 2 without, by the FLOPs; the activations of all passes are held until the one
    backward pass. While gates are soft every pass costs a dense one; while everything is kept there is one pass.

    The gates rank with one set of scores whatever the budget; each sample's multiplier (``ExactDual``) shifts them to
    the budget of the pass.

    Differs from Yu and Huang: the mean instead of the sum of the losses, so that learning rate and gradient clipping
    mean the same for any number of passes.

    Attributes:
        sampled: random budgets in each step, >= 0, uniform in [low, high].
        sandwich: whether the keep-all and the smallest budget are run as well.
        low, high: range of budgets, 0 < low < high <= 1.
        in_place_weight: w in [0, 1], for the passes of a sandwich that remove tokens: loss = (1 - w) (that of an ordinary
            step) + w (distillation from the keep-all pass).
        seed: with the number of the optimiser step it decides the random budgets, so that all ranks, all micro-batches
            of a step, and a resumed training draw the same.

    Raises:
        ConfigError: a value is out of range.
    """

    sampled: int = 0
    sandwich: bool = False
    low: float = 0.1
    high: float = 0.7
    in_place_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = Checks()
        checks.require(self.sampled >= 0, "sampled", f"random budgets in each step, must be >= 0, got {self.sampled}")
        ordered = 0.0 < self.low < self.high <= 1.0
        checks.require(ordered, "low", f"must be in (0, high) with high <= 1, got {self.low} with high = {self.high}")
        checks.require(
            0.0 <= self.in_place_weight <= 1.0, "in_place_weight", f"must be in [0, 1], got {self.in_place_weight}"
        )
        checks.finish()

    @property
    def active(self) -> bool:
        """Whether training serves more than the one budget ``retention.rho``."""
        return self.sampled > 0 or self.sandwich

    def draw(self, step: int) -> tuple[float, ...]:
        """Budgets of an optimiser step in the order of the passes: keep-all first, as it teaches the others."""
        source = random.Random(f"{self.seed}/{step}")  # the same on every machine, unlike torch's generators
        drawn = tuple(source.uniform(self.low, self.high) for _ in range(self.sampled))
        return (KEEP_ALL, *drawn, self.low) if self.sandwich else drawn

    def blend(self, loss: Tensor, in_place: Tensor) -> Tensor:
        """Loss of a pass that removes tokens, from its ordinary loss and its distance to the keep-all pass."""
        return (1.0 - self.in_place_weight) * loss + self.in_place_weight * in_place

    def check_run(self, *, saliency: float) -> None:
        """Raise ``ConfigError`` where the rest of the training makes no sense with these budgets.

        Args:
            saliency: of ``Distillation``.
        """
        checks = Checks()
        unread = self.sandwich and self.in_place_weight == 1.0 and saliency > 0.0
        message = (
            "no pass would read distill.saliency: those that remove tokens learn from the keep-all pass alone; set"
        )
        checks.require(not unread, "in_place_weight", f"{message} it below 1")
        checks.finish()

    def covers(self, rho: float) -> bool:
        """Whether a budget is in the range that training served."""
        return not self.active or self.low <= rho <= self.high
