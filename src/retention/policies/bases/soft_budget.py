"""Provide the base class of policies whose kept count depends on the sample and meets the budget on average."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.engine.gate import Decision, LayerView
from retention.engine.pass_values import PassValue
from retention.policies.bases.lagrangian import LagrangianPolicy

_GAIN = 0.5  # change of the threshold offset per optimizer step and unit of slack, in temperatures


class SoftBudgetPolicy(LagrangianPolicy):
    """Base class: a subclass records how many tokens each gate keeps; a dual drives their mean ratio to rho.

    One multiplier serves all gates, so the method itself distributes the budget over depth. The kept count depends on
    the sample, so rho is met on average over the training data at best. The target counts protected tokens as exact
    policies do, which matters for short sequences.

    Soft gates and noisy samples keep another ratio than the hard decisions derived from them. For comparisons at equal
    budgets, threshold calibration therefore moves one offset of all thresholds during hard pruning, until the achieved
    keep ratio meets the target. The offset is saved with the weights.

    Args:
        exact_topk: keep exactly the budget's count by rank, at test time and during hard pruning, instead of using the
            method's own thresholds.
        calibrate_threshold: move the threshold offset; False decides as in the method's paper, whatever is kept.
        **settings: see ``LagrangianPolicy`` and ``RetentionPolicy``. ``rho`` is the keep ratio on average over gates
            and samples; ``schedule`` and ``slope`` define the counts of ``exact_topk`` and the targets in reports.

    Attributes:
        threshold_offset: scalar buffer, in units of the method's temperature.

    Raises:
        ConfigError: a setting is out of range.
    """

    threshold_offset: Tensor
    _slacks = PassValue[dict[int, Tensor]](dict)
    renamed_state: ClassVar[dict[str, str]] = {**LagrangianPolicy.renamed_state, "level": "threshold_offset"}

    def __init__(self, *, exact_topk: bool = False, calibrate_threshold: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.exact_topk = exact_topk
        self.calibrate_threshold = calibrate_threshold
        self.register_buffer("threshold_offset", torch.zeros(()))

    def record_kept_count(self, view: LayerView, kept: Tensor) -> None:
        """Record how many tokens a gate keeps.

        Args:
            view: input of the gate.
            kept: [B] float, differentiable in what the policy learns.
        """
        target = self.budget.targets(view.lengths, self.current_anneal)[self.layers.index(view.layer_idx)]
        reachable = torch.maximum(target, view.protected.sum(1))
        self._slacks[view.layer_idx] = ((kept - reachable) / view.lengths.clamp_min(1)).mean()

    def hard_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Decide which tokens are removed, and record the kept count in training."""
        keep_mask = self.select(gate, scores, view)
        if self.training:
            self.record_kept_count(view, keep_mask.sum(1).float())
        return Decision(keep_mask=keep_mask)

    def step_dual(self, slack: Tensor) -> None:
        """Update the multiplier, and during hard pruning the threshold offset."""
        super().step_dual(slack)
        if self.calibrate_threshold and not self.exact_topk and self.phase == "hard":
            self.threshold_offset += _GAIN * slack[0].to(self.threshold_offset)

    @property
    def exact(self) -> bool:
        """Return True if every sample keeps exactly the budget's count at test time."""
        return self.exact_topk

    def budget_slack(self) -> Tensor:
        """Compute (mean keep ratio - current target) of the last pass, [1]; 0 if no gate recorded its count."""
        if not self._slacks:
            return self.dual.multipliers.new_zeros(1)
        return torch.stack(list(self._slacks.values())).mean().unsqueeze(0)
