"""Provide the base class of policies whose budget is a penalty with one multiplier."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.duals import AscentDual
from retention.core.flops import EncoderShape
from retention.engine.report import ForwardReport
from retention.policies.bases.retention_policy import RetentionPolicy

log = logging.getLogger(__name__)

SLACK_TOLERANCE = 0.1  # mean slack at the end of the soft phase above which the budget counts as unmet
_SLACK_DECAY = 0.95  # of the running mean of the slack over optimizer steps


class LagrangianPolicy(RetentionPolicy):
    """Base class: a subclass computes ``budget_slack`` [1], which a dual drives to 0; every gate may remove tokens.

    A subclass that sets ``frozen`` has parameters that are learned in the soft phase only: whatever the optimizer does
    to them during hard pruning (momentum and weight decay move parameters without a gradient as well) is undone in
    ``step_dual``.

    Args:
        eta: step size of the multiplier, > 0.
        augmented: weight of the quadratic term, >= 0, see ``AscentDual``.
        **settings: see ``RetentionPolicy``.

    Attributes:
        frozen: parameters keep their values during hard pruning.

    Raises:
        ConfigError: a setting is out of range.
    """

    any_budget: ClassVar[bool] = False
    slack_unit: ClassVar[str] = "tokens"  # of which the slack is a share
    renamed_state: ClassVar[dict[str, str]] = {"pressure.": "dual."}  # prefixes in older checkpoints -> present ones

    def __init__(self, *, eta: float = 0.1, augmented: float = 10.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.dual = AscentDual(eta=eta, augmented=augmented)
        self.frozen = False
        self._frozen_values: dict[str, Tensor] = {}
        self._slack_mean: Tensor | None = None
        self._slack_weight = 0.0  # sum of the weights in the running mean, 1 after many steps
        self._was_warned = False
        self.register_load_state_dict_pre_hook(_rename_old_state)  # type: ignore[no-untyped-call]

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate the multiplier and activate every gate."""
        super().build(shape, name)
        self.active = (True,) * len(self.layers)
        self.dual.setup(1)

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass; remember the parameters if they must not change after it."""
        super().begin(report)
        if self.frozen and self.training and self.phase == "hard":
            self._frozen_values = {name: value.detach().clone() for name, value in self.named_parameters()}

    @property
    def constrained(self) -> bool:
        """Return True: the penalty enforces the budget."""
        return True

    def budget_loss(self) -> Tensor:
        """Compute the Lagrangian term of the last pass, scalar."""
        return self.dual.penalty(self.budget_slack())

    def step_dual(self, slack: Tensor) -> None:
        """Update the multiplier, and undo the optimizer's step on frozen parameters."""
        self._restore_frozen()
        if self.current_phase == "soft":
            mean = torch.zeros(()) if self._slack_mean is None else self._slack_mean
            self._slack_mean = _SLACK_DECAY * mean.to(slack) + (1.0 - _SLACK_DECAY) * slack.detach().mean()
            self._slack_weight = _SLACK_DECAY * self._slack_weight + 1.0 - _SLACK_DECAY
        elif self.current_phase == "hard":
            self._warn_of_unmet_budget()
        self.dual.step(slack)

    @property
    def soft_slack(self) -> float | None:
        """Return the running mean of the slack over the last soft steps (about 20), None before the first one."""
        return None if self._slack_mean is None else float(self._slack_mean) / self._slack_weight

    @property
    def unmet_budget(self) -> float | None:
        """Return ``soft_slack`` if it is above 0.1: the method did not get down to its budget; None if it did."""
        slack = self.soft_slack
        return slack if slack is not None and slack > SLACK_TOLERANCE else None

    def multipliers_by_layer(self) -> dict[int, float]:
        """Return the one multiplier for every gated layer."""
        return dict.fromkeys(self.layers, float(self.dual.multipliers))

    def _restore_frozen(self) -> None:
        with torch.no_grad():
            for name, value in self.named_parameters():
                if name in self._frozen_values:
                    value.copy_(self._frozen_values[name])
        self._frozen_values = {}

    def _warn_of_unmet_budget(self) -> None:
        """Warn once, at the first hard step, if the soft phase ended above its budget."""
        if self._was_warned:
            return
        self._was_warned = True
        if (slack := self.unmet_budget) is not None:
            message = "%s ends its soft phase %.0f %% of the %s above its budget; raise phases.pruning_start, "
            log.warning(message + "optimizer.policy_lr or retention.eta", self.name, 100 * slack, self.slack_unit)


def _rename_old_state(policy: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename entries of checkpoints of earlier versions before they are loaded."""
    for old, new in getattr(policy, "renamed_state", {}).items():
        for key in [key for key in state_dict if key.startswith(prefix + old)]:
            state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)
