"""Constraint-aware token pruning, ToP (Li et al., KDD 2023, arXiv 2306.14393)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape, encoder_flops
from retention.core.hard_concrete import HardConcrete
from retention.engine.report import ForwardReport
from retention.errors import Checks
from retention.policies.bases.rank_curve import RankCurvePolicy

_GRID = 64  # scales tried at once, twice; the second time between two of the first


class ToP(RankCurvePolicy):
    """Keeps the tokens that get most attention; Hard-Concrete gates on rank bins learn how many, under a MAC budget.

    Training needs: in the soft phase one Hard-Concrete gate for each bin and layer is drawn per pass, and a Lagrangian
    holds the expected MACs, with P(z > 0) as the chance that a bin stays, at those that ``schedule`` would cost.
    In the removal phase the curves are frozen.

    Differs from the paper: its ranking distillation teaches attention maps of the student, which no scorer of this
    method ranks by, and is left out (``distill`` gives the logits of a teacher); the gate that switches off the pruning
    of a whole layer is left out, since all its bins can stay open; the quadratic multiplier is fixed; bins enter as
    log z on attention logits instead of zeroing states that still take attention; and at test time the curves are
    scaled so that each sample's MACs are those asked for.

    Args:
        rho, schedule, slope: name the MACs: those of this mean share, spread over depth like this.
        beta, gamma, zeta: of the Hard-Concrete gates.
        keep_bias: initial logit of each bin; positive starts near "keep all".
        bins, eta, augmented: see ``RankCurve``.
        layers, name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self, *, beta: float = 0.66, gamma: float = -0.1, zeta: float = 1.1, keep_bias: float = 3.0, **settings: Any
    ) -> None:
        checks = Checks()
        checks.gather(lambda: HardConcrete(beta=beta, gamma=gamma, zeta=zeta))
        checks.gather(lambda: RankCurvePolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.gate = HardConcrete(beta=beta, gamma=gamma, zeta=zeta)
        self.keep_bias = keep_bias

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.shape = shape
        self.logits = nn.Parameter(torch.full((len(self.layers), self.bins), float(self.keep_bias)))

    def curves(self) -> Tensor:
        return self.gate.prob_nonzero(self.logits)

    def drawn_curve(self, gate: int) -> Tensor:
        return self.gate.sample(self.logits[gate])

    def scaled_shares(self, report: ForwardReport) -> Tensor:
        """[G, B]: the curves, scaled until the encoder costs what the schedule costs."""
        lengths = report.lengths
        asked = self._macs(self.budget.targets(lengths), lengths)
        raw = self.shares().to(lengths.device).double()[:, None, None]
        low = torch.full_like(asked, -12.0)
        step = 24.0 / (_GRID - 1)
        for _ in range(2):  # log2 of the scale, [grid, B]
            grid = low + step * torch.arange(_GRID, device=lengths.device).unsqueeze(1)
            costs = self._macs((raw * 2.0**grid).clamp_max(1.0) * lengths, lengths)
            low = low + step * ((costs <= asked).sum(0) - 1).clamp_min(0)
            step = step / (_GRID - 1)
        return (raw[:, 0] * 2.0**low).clamp_max(1.0)

    def budget_slack(self) -> Tensor:
        """(expected MACs - MACs asked for now) / MACs of the dense encoder, mean over the batch, [1]."""
        if not self._asked:
            return self.pressure.multipliers.new_zeros(1)
        lengths = self.report.lengths
        expected = self._macs(self.shares().unsqueeze(1) * lengths, lengths)
        asked = self._macs(self.budget.targets(lengths, self.current_anneal), lengths)
        dense = encoder_flops(self.shape, lengths, {})
        return ((expected - asked) / dense).mean().float().unsqueeze(0)

    def _macs(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Cost of the encoder where ``tokens`` [G, ..., B] go on after each gate, [..., B] float64."""
        return encoder_flops(self.shape, lengths, dict(zip(self.layers, tokens, strict=True)))
