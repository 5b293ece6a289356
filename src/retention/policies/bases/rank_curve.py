"""Methods that learn, for each layer, how much of the attention ranking goes on."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.core.budget import restore_mean, whole_counts
from retention.core.hard_concrete import log_gate
from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport
from retention.errors import Checks
from retention.policies.bases.lagrangian import LagrangianPolicy
from retention.policies.bases.retention_policy import observed


class RankCurvePolicy(LagrangianPolicy):
    """Base: tokens are sorted by received attention, and each bin of the ranking has a learned weight at each gate.

    In the soft phase the weights gate the tokens; together they say which share every layer needs. In the removal
    phase and at test time exactly that share is kept, scaled to the budget, by a strict top-M on received attention.

    Args:
        rho: mean share of a sample's real tokens that is kept, over the gated layers, in (0, 1].
        layers, name: see ``RetentionPolicy``.
        bins: of the ranking, >= 2; bin k holds the ranks from k T / bins to (k + 1) T / bins.
        eta, augmented: of the dual that presses the curves towards the budget, see ``Priced``.
        schedule, slope: see ``RetentionPolicy``, for subclasses that read them.

    Raises:
        ConfigError: a setting is out of range.
    """

    soft: ClassVar[bool] = True
    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def __init__(self, *, bins: int = 32, **settings: Any) -> None:
        checks = Checks()
        checks.require(bins >= 2, "bins", f"must be >= 2, got {bins}")
        checks.gather(lambda: LagrangianPolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.bins = bins
        self._asked = False  # whether soft gates were used in the last pass

    @abstractmethod
    def curves(self) -> Tensor:
        """Expected weight of each bin at each gate, [G, bins] in [0, 1], differentiable; the best ranks come first."""

    @abstractmethod
    def drawn_curve(self, gate: int) -> Tensor:
        """Weights for one pass, [bins]."""

    @abstractmethod
    def budget_slack(self) -> Tensor:
        """What the dual holds at 0, [1], from the curves alone; 0 where the last pass was not soft."""

    def shares(self) -> Tensor:
        """Share of a text that the curves let through each gate, [G], never rising; a token has to pass all of them."""
        return self.curves().cumprod(0).mean(1)

    def scaled_shares(self, report: ForwardReport) -> Tensor:
        """The same with mean rho, [G, 1]; a subclass may scale for each sample, [G, B]."""
        return torch.tensor(restore_mean(_with_mean(self.shares().tolist(), self.rho), self.rho)).unsqueeze(1)

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        self._asked = False
        if self.layers:
            with torch.no_grad():
                shares = self.scaled_shares(report).double()
            self._counts = whole_counts(1.0 - self.current_anneal * (1.0 - shares), report.lengths)

    def score(self, view: LayerView) -> Tensor:
        return observed(view.received_attention)

    def soft_decision(self, gate: int, scores: Tensor, view: LayerView) -> Decision:
        self._asked = True
        places = rank_bins(scores, view, self.bins)
        weights = torch.where(view.protected, 1.0, self.drawn_curve(gate)[places])
        survival = view.survival.float() * torch.where(view.protected, 1.0, self.curves()[gate][places])
        self.report.keep_mass[view.layer_idx] = survival.detach().sum(1)
        return Decision(log_gates=torch.where(view.valid, log_gate(weights), 0.0), survival=survival)


def rank_bins(scores: Tensor, view: LayerView, bins: int) -> Tensor:
    """Bin of each token's rank, [B, N] long in [0, bins); protected tokens rank first, padding last."""
    ranked = scores.detach().masked_fill(view.protected, torch.inf).masked_fill(~view.valid, -torch.inf)
    order = torch.sort(ranked, dim=1, descending=True, stable=True).indices
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    ranks = torch.empty_like(order).scatter(1, order, places)
    return (ranks * bins // view.lengths.unsqueeze(1)).clamp_max(bins - 1)


def _with_mean(shares: list[float], mean: float) -> list[float]:
    total = sum(shares)
    return [share * mean * len(shares) / total if total > 0 else mean for share in shares]
