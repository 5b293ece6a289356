"""Provide the base class of policies whose budget is a penalty with one multiplier."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from retention.core.duals import AscentDual
from retention.core.flops import EncoderShape
from retention.policies.bases.retention_policy import RetentionPolicy


class LagrangianPolicy(RetentionPolicy):
    """Base class: a subclass computes ``budget_slack`` [1], which a dual drives to 0; every gate may remove tokens.

    Args:
        eta: step size of the multiplier, > 0.
        augmented: weight of the quadratic term, >= 0, see ``AscentDual``.
        **settings: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    any_budget: ClassVar[bool] = False
    renamed_state: ClassVar[dict[str, str]] = {"pressure.": "dual."}  # prefixes in older checkpoints -> present ones

    def __init__(self, *, eta: float = 0.1, augmented: float = 10.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.dual = AscentDual(eta=eta, augmented=augmented)
        self.register_load_state_dict_pre_hook(_rename_old_state)  # type: ignore[no-untyped-call]

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate the multiplier and activate every gate."""
        super().build(shape, name)
        self.active = (True,) * len(self.layers)
        self.dual.setup(1)

    @property
    def constrained(self) -> bool:
        """Return True: the penalty enforces the budget."""
        return True

    def budget_loss(self) -> Tensor:
        """Compute the Lagrangian term of the last pass, scalar."""
        return self.dual.penalty(self.budget_slack())

    def step_dual(self, slack: Tensor) -> None:
        """Update the multiplier."""
        self.dual.step(slack)

    def multipliers_by_layer(self) -> dict[int, float]:
        """Return the one multiplier for every gated layer."""
        return dict.fromkeys(self.layers, float(self.dual.multipliers))


def _rename_old_state(policy: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename entries of checkpoints of earlier versions before they are loaded."""
    for old, new in getattr(policy, "renamed_state", {}).items():
        for key in [key for key in state_dict if key.startswith(prefix + old)]:
            state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
