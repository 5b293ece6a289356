"""Provide the base class of policies that learn how much of the attention ranking each layer keeps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.core.budget import restore_mean
from retention.core.hard_concrete import log_gate
from retention.engine.gate import Decision, LayerView
from retention.engine.pass_values import PassValue
from retention.engine.report import ForwardReport
from retention.errors import require_number
from retention.policies.bases.lagrangian import LagrangianPolicy
from retention.policies.bases.retention_policy import observed


class RankCurvePolicy(LagrangianPolicy):
    """Base class: tokens are sorted by received attention, and each bin of the ranking has a learned weight per gate.

    In the soft phase the weights gate the tokens, and their mean gives the keep ratio of every layer. In the hard phase
    and at test time exactly these ratios are kept, scaled to the budget, by an exact top-k on received attention.
    Needs attention maps (eager attention).

    Args:
        bins: of the ranking, >= 2; bin k holds the ranks from k T / bins to (k + 1) T / bins.
        frozen: keep the learned weights as they are during hard pruning; False lets the optimizer's momentum move them
            on, as earlier versions did.
        **settings: see ``LagrangianPolicy`` and ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True
    observes: ClassVar[tuple[str, ...]] = ("attention",)

    _was_soft = PassValue[bool](bool)  # soft gates were used in the pass

    def __init__(self, *, bins: int = 32, frozen: bool = True, **settings: Any) -> None:
        require_number("bins", bins, low=2, name="the number of bins")
        super().__init__(**settings)
        self.bins = bins
        self.frozen = frozen

    @abstractmethod
    def curves(self) -> Tensor:
        """Return the expected weight of each bin at each gate, [G, bins] in [0, 1], best ranks first."""

    @abstractmethod
    def sampled_curve(self, gate: int) -> Tensor:
        """Return the weights of one gate for one pass, [bins]."""

    @abstractmethod
    def budget_slack(self) -> Tensor:
        """Compute the constraint that the dual drives to 0, [1], from the curves; 0 if the last pass was not soft."""

    def keep_ratios(self) -> Tensor:
        """Compute the keep ratio of each gate, [G], never increasing, because a token has to pass all earlier gates."""
        return self.curves().cumprod(0).mean(1)

    def scaled_keep_ratios(self, report: ForwardReport) -> Tensor:
        """Scale the keep ratios to mean rho, [G, 1]; a subclass may scale for each sample, [G, B]."""
        return torch.tensor(restore_mean(_with_mean(self.keep_ratios().tolist(), self.rho), self.rho)).unsqueeze(1)

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass: compute the counts from the learned curves."""
        super().begin(report)
        if self.layers:
            with torch.no_grad():
                ratios = self.scaled_keep_ratios(report).double()
            self._counts = self.budget.counts_of(1.0 - self.current_anneal * (1.0 - ratios), report.lengths)

    def score(self, view: LayerView) -> Tensor:
        """Return the received attention."""
        return observed(view.attention_statistics)

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        """Gate each token by the sampled weight of its rank."""
        self._was_soft = True
        bins = rank_bins(scores, view, self.bins)
        weights = torch.where(view.protected, 1.0, self.sampled_curve(gate)[bins])
        survival = view.survival.float() * torch.where(view.protected, 1.0, self.curves()[gate][bins])
        self.report.keep_mass[view.layer_idx] = survival.detach().sum(1)
        return Decision(log_gates=torch.where(view.valid, log_gate(weights), 0.0), survival=survival)


def rank_bins(scores: Tensor, view: LayerView, bins: int) -> Tensor:
    """Compute the bin of each token's rank, [B, N] long in [0, bins); protected tokens rank first, padding last."""
    ranked = scores.detach().masked_fill(view.protected, torch.inf).masked_fill(~view.valid, -torch.inf)
    order = torch.sort(ranked, dim=1, descending=True, stable=True).indices
    columns = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    ranks = torch.empty_like(order).scatter(1, order, columns)
    return (ranks * bins // view.lengths.clamp_min(1).unsqueeze(1)).clamp_max(bins - 1)


def _with_mean(ratios: list[float], mean: float) -> list[float]:
    total = sum(ratios)
    return [ratio * mean * len(ratios) / total if total > 0 else mean for ratio in ratios]
