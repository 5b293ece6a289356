"""Train one set of weights for a range of budgets: several budgets in each training step."""

from __future__ import annotations

import random
from dataclasses import dataclass

from torch import Tensor

from retention.errors import require, require_number

KEEP_ALL = 1.0


@dataclass(frozen=True, kw_only=True)
class BudgetSampling:
    """Budgets (target keep ratios) that a training step runs, and the loss of the passes that remove tokens.

    Each budget is one forward pass over the batch; the loss of a step is the mean over its passes. With ``sandwich``
    the passes are a keep-all pass, ``sampled`` random budgets, and the smallest budget, and the logits of the keep-all
    pass are soft targets of the others (sandwich rule and in-place distillation, Yu and Huang 2019, arXiv 1903.05134;
    for token budgets Kim and Cho 2021, arXiv 2010.07003). Without it there are only the random budgets: with
    ``sampled=1`` and a trained teacher (``distill``) a step costs as much as an ordinary step.

    Cost of a step during hard pruning, in forward passes of the dense model by FLOPs: about
    1 + ``low`` + sampled (low + high) / 2 with the sandwich rule, sampled (low + high) / 2 without it; the activations
    of all passes are held until the one backward pass. During soft gating every pass costs a dense one; during warmup
    there is one pass.

    The gates rank with one set of scores whatever the budget; each sample's multiplier (``ExactDual``) shifts them to
    the budget of the pass.

    Differs from Yu and Huang: the mean instead of the sum of the losses, so that learning rate and gradient clipping
    mean the same for any number of passes.

    Attributes:
        sampled: random budgets in each step, in [0, 64], uniform in [low, high].
        sandwich: True to run the keep-all and the smallest budget as well.
        low: smallest budget, 0 < low < high.
        high: largest random budget, low < high <= 1.
        in_place_weight: w in [0, 1], for the passes of a sandwich that remove tokens: loss = (1 - w) (that of an
            ordinary step) + w (distillation from the keep-all pass).
        seed: with the number of the optimizer step it determines the random budgets, so that all ranks, all
            micro-batches of a step, and a resumed training draw the same.

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
        require_number("sampled", self.sampled, low=0, high=64, name="number of random budgets in each step,")
        ordered = 0.0 < self.low < self.high <= 1.0
        require(ordered, "low", f"must be in (0, high) with high <= 1, got {self.low} with high = {self.high}")
        require_number("in_place_weight", self.in_place_weight, low=0, high=1)

    @property
    def active(self) -> bool:
        """Return True if training runs other budgets than ``retention.rho``."""
        return self.sampled > 0 or self.sandwich

    def draw(self, step: int) -> tuple[float, ...]:
        """Return the budgets of an optimizer step in the order of its passes, keep-all first."""
        generator = random.Random(f"{self.seed}/{step}")  # the same on every machine, unlike torch's generators
        budgets = tuple(generator.uniform(self.low, self.high) for _ in range(self.sampled))
        return (KEEP_ALL, *budgets, self.low) if self.sandwich else budgets

    def blend(self, loss: Tensor, in_place_loss: Tensor) -> Tensor:
        """Compute the loss of a pass that removes tokens, from its ordinary and its in-place distillation loss."""
        return (1.0 - self.in_place_weight) * loss + self.in_place_weight * in_place_loss

    def check_run(self, *, saliency: float) -> None:
        """Raise ``ConfigError`` if the other training settings do not fit these budgets.

        Args:
            saliency: weight of the saliency distillation, see ``Distillation``.
        """
        unused = self.sandwich and self.in_place_weight == 1.0 and saliency > 0.0
        message = (
            f"no pass would use distill.saliency={saliency}: with in_place_weight=1 the passes that remove tokens are "
            "trained on the keep-all pass alone; set in_place_weight below 1, or distill.saliency to 0"
        )
        require(not unused, "in_place_weight", message)

    def covers(self, rho: float) -> bool:
        """Return True if a budget is in the range of training, or no range was trained."""
        return not self.active or self.low <= rho <= self.high
