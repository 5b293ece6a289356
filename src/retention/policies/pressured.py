"""Methods that have no budget of their own: a dual weighs the price of kept tokens until the mean share is met."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retention.core.dual import AscentDual
from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.engine.report import ForwardReport
from retention.errors import Checks
from retention.policies.base import RetentionPolicy


class Pressured(RetentionPolicy):
    """Base: a subclass tells ``account`` what share each gate keeps; the mean over gates is pressed towards rho.

    One multiplier for all gates: the method itself finds out where tokens can be spared. What is kept follows the text,
    so rho is met on average over the training texts, at best.

    Args:
        eta: step of the multiplier, > 0.
        augmented: weight of the quadratic term, >= 0, see ``AscentDual``.
        strict: whether exactly the budget's count is kept at test time and in the removal phase, by rank, instead of
            what the method decides.
        rho: share that is kept on average over gates and texts.
        schedule, slope: of the strict counts, and of the targets that reports show.
        layers, name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, eta: float = 0.1, augmented: float = 10.0, strict: bool = False, **settings: Any) -> None:
        checks = Checks()
        checks.gather(lambda: AscentDual(eta=eta, augmented=augmented))
        checks.gather(lambda: RetentionPolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.pressure = AscentDual(eta=eta, augmented=augmented)
        self.strict = strict
        self._shares: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave out the last forward pass: tensors of a graph cannot be copied."""
        return {**self.__dict__, "_shares": {}}

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.active = (True,) * len(self.layers)
        self.pressure.setup(1)

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        self._shares = {}

    def account(self, view: LayerView, kept: Tensor) -> None:
        """Note how many tokens a gate keeps, [B] float, differentiable in what the policy learns."""
        self._shares[view.layer_idx] = (kept / view.lengths).mean()

    @property
    def exact(self) -> bool:
        return self.strict

    @property
    def constrained(self) -> bool:
        return True

    def budget_slack(self) -> Tensor:
        """(mean kept share - share asked for now) of the last pass, [1]; 0 where nothing was accounted for."""
        if not self._shares:
            return self.pressure.multipliers.new_zeros(1)
        asked = 1.0 - self.current_anneal * (1.0 - self.rho)
        return (torch.stack(list(self._shares.values())).mean() - asked).unsqueeze(0)

    def budget_loss(self) -> Tensor:
        return self.pressure.penalty(self.budget_slack())

    def step_dual(self, slack: Tensor) -> None:
        self.pressure.step(slack)

    def price(self) -> dict[int, float]:
        return dict.fromkeys(self.layers, float(self.pressure.multipliers))
