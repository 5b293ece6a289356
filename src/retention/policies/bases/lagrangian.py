"""One multiplier on one constraint: what methods share whose budget is held by a price, not by counting."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from retention.core.duals import AscentDual
from retention.core.flops import EncoderShape
from retention.errors import Checks
from retention.policies.bases.retention_policy import RetentionPolicy


class LagrangianPolicy(RetentionPolicy):
    """Base: a subclass gives ``budget_slack`` [1], which a dual presses towards 0; every gate may remove tokens.

    Args:
        eta: step of the multiplier, > 0.
        augmented: weight of the quadratic term, >= 0, see ``AscentDual``.
        others: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    any_budget: ClassVar[bool] = False

    def __init__(self, *, eta: float = 0.1, augmented: float = 10.0, **settings: Any) -> None:
        checks = Checks()
        checks.gather(lambda: AscentDual(eta=eta, augmented=augmented))
        checks.gather(lambda: RetentionPolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.pressure = AscentDual(eta=eta, augmented=augmented)

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.active = (True,) * len(self.layers)
        self.pressure.setup(1)

    @property
    def constrained(self) -> bool:
        return True

    def budget_loss(self) -> Tensor:
        return self.pressure.penalty(self.budget_slack())

    def step_dual(self, slack: Tensor) -> None:
        self.pressure.step(slack)

    def price(self) -> dict[int, float]:
        return dict.fromkeys(self.layers, float(self.pressure.multipliers))
