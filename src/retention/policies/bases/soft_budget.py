"""Methods that have no budget of their own: a dual weighs the price of kept tokens until the mean share is met."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport
from retention.policies.bases.lagrangian import LagrangianPolicy

_GAIN = 0.5  # by how many temperatures the level moves in a step, per unit of slack


class SoftBudgetPolicy(LagrangianPolicy):
    """Base: a subclass tells ``account`` what share each gate keeps; the mean over gates is pressed towards rho.

    One multiplier for all gates: the method itself finds out where tokens can be spared. What is kept follows the text,
    so rho is met on average over the training texts, at best. What is asked for on average is what a policy with an
    exact budget spends on the same texts: protected tokens stay in it too, and of short texts they are a large part.

    Soft gates and draws with noise keep another share than the decisions that come out of them. So that methods can be
    compared at equal budgets, the ``level`` that decisions are made at follows the share that is really kept, through
    the removal phase and for all gates alike; it is saved with the weights.

    Args:
        calibrate: whether the level moves; without it the methods decide as their papers do, and spend what they spend.
        strict: whether exactly the budget's count is kept at test time and in the removal phase, by rank, instead of
            what the method decides.
        rho: share that is kept on average over gates and texts.
        schedule, slope: of the strict counts, and of the targets that reports show.
        eta, augmented: see ``Priced``.
        layers, name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    level: Tensor

    def __init__(self, *, exact_topk: bool = False, calibrate_threshold: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.exact_topk = exact_topk
        self.calibrate_threshold = calibrate_threshold
        self.register_buffer("level", torch.zeros(()))  # in units of the method's temperature
        self._excess: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave out the last forward pass: tensors of a graph cannot be copied."""
        return {**self.__dict__, "_excess": {}}

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        self._excess = {}

    def account(self, view: LayerView, kept: Tensor) -> None:
        """Note how many tokens a gate keeps, [B] float, differentiable in what the policy learns."""
        target = self.budget.targets(view.lengths, self.current_anneal)[self.layers.index(view.layer_idx)]
        asked = torch.maximum(target, view.protected.sum(1))
        self._excess[view.layer_idx] = ((kept - asked) / view.lengths).mean()

    def remove(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        keep_mask = self.select(gate, scores, view)
        if self.training:
            self.account(view, keep_mask.sum(1).float())
        return Decision(keep_mask=keep_mask)

    def step_dual(self, slack: Tensor) -> None:
        """Moves the price, and in the removal phase the level too."""
        super().step_dual(slack)
        if self.calibrate_threshold and not self.exact_topk and self.phase == "hard":
            self.level += _GAIN * slack[0].to(self.level)

    @property
    def exact(self) -> bool:
        return self.exact_topk

    def budget_slack(self) -> Tensor:
        """(mean kept share - share asked for now) of the last pass, [1]; 0 where nothing was accounted for."""
        if not self._excess:
            return self.pressure.multipliers.new_zeros(1)
        return torch.stack(list(self._excess.values())).mean().unsqueeze(0)
