"""Constraint-aware token pruning, ToP (Li et al., KDD 2023, arXiv 2306.14393)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape, encoder_flops
from retention.core.hard_concrete import HardConcrete
from retention.engine.report import ForwardReport
from retention.errors import require_number
from retention.policies.bases.rank_curve import RankCurvePolicy

_DEFAULT_GATE = HardConcrete()
_GRID = 64  # scales per grid search; the second search refines the best interval of the first


class ToP(RankCurvePolicy):
    """Keep the tokens that receive the most attention, with learned gates on rank bins under a FLOPs budget.

    Training: in the soft phase one Hard-Concrete gate per bin and layer is sampled per pass, and a Lagrangian holds the
    expected FLOPs, with P(z > 0) as the keep probability of a bin, at those of ``schedule``. In the hard phase the
    curves are frozen. Needs attention maps (eager attention).

    Source: ToP (arXiv 2306.14393).

    Differs from the paper: its ranking distillation trains attention maps of the student, by which no scorer of this
    method ranks, and is left out (``distill`` uses the logits of a teacher); the gate that disables pruning of a whole
    layer is left out, since all its bins can stay open; bins learn at ``rate`` times the policy's learning rate, since
    the soft phase has hundreds of steps here and about 20,000 in the public code; the quadratic multiplier is constant;
    gates are added to attention logits as log z instead of zeroing states, which would still receive attention; at test
    time the curves are scaled so that each sample meets its FLOPs.

    Args:
        gate: Hard-Concrete distribution of the gates.
        keep_bias: initial logit of each bin; a positive value starts near keep-all.
        rate: learning rate of the bins relative to ``policy_lr``, > 0. An optimizer step of AdamW is at most the
            learning rate, so with few soft steps a small rate leaves every bin near its start and all curves flat.
        **settings: see ``RankCurvePolicy``; ``rho``, ``schedule`` and ``slope`` define the FLOPs budget.

    Raises:
        ConfigError: a setting is out of range.
    """

    slack_unit: ClassVar[str] = "FLOPs"

    def __init__(
        self, *, gate: HardConcrete = _DEFAULT_GATE, keep_bias: float = 3.0, rate: float = 10.0, **settings: Any
    ) -> None:
        require_number("rate", rate, above=0, name="the learning rate factor")
        require_number("keep_bias", keep_bias, low=-100, high=100, name="the initial score")
        super().__init__(**settings)
        self.gate = gate
        self.keep_bias = keep_bias
        self.rate = rate
        self.register_load_state_dict_pre_hook(_read_old_logits)  # type: ignore[no-untyped-call]

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate the logits of the rank bins."""
        super().build(shape, name)
        self.shape = shape
        self.raw_logits = nn.Parameter(torch.zeros(len(self.layers), self.bins))

    @property
    def logits(self) -> Tensor:
        """Return the logits of the bins, [G, bins]."""
        return self.keep_bias + self.rate * self.raw_logits

    def curves(self) -> Tensor:
        """Return the keep probability of each bin, [G, bins]."""
        return self.gate.prob_nonzero(self.logits)

    def sampled_curve(self, gate: int) -> Tensor:
        """Sample the gates of the bins, [bins]."""
        return self.gate.sample(self.logits[gate])

    def scaled_keep_ratios(self, report: ForwardReport) -> Tensor:
        """Scale the keep ratios until the encoder costs as much as with the schedule, [G, B]."""
        lengths = report.lengths
        target = self._flops(self.budget.targets(lengths), lengths)
        raw = self.keep_ratios().to(lengths.device).double()[:, None, None]
        low = torch.full_like(target, -12.0)
        step = 24.0 / (_GRID - 1)
        for _ in range(2):  # log2 of the scale, [grid, B]
            grid = low + step * torch.arange(_GRID, device=lengths.device).unsqueeze(1)
            costs = self._flops((raw * 2.0**grid).clamp_max(1.0) * lengths, lengths)
            low = low + step * ((costs <= target).sum(0) - 1).clamp_min(0)
            step = step / (_GRID - 1)
        return (raw[:, 0] * 2.0**low).clamp_max(1.0)

    def budget_slack(self) -> Tensor:
        """Compute (expected FLOPs - current target) / FLOPs of the dense encoder, mean over the batch, [1]."""
        if not self._was_soft:
            return self.dual.multipliers.new_zeros(1)
        lengths = self.report.lengths
        expected = self._flops(self.keep_ratios().unsqueeze(1) * lengths, lengths)
        target = self._flops(self.budget.targets(lengths, self.current_anneal), lengths)
        dense = encoder_flops(self.shape, lengths, {})
        return ((expected - target) / dense).mean().float().unsqueeze(0)

    def _flops(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Compute the encoder's FLOPs if ``tokens`` [G, ..., B] are kept by the gates, [..., B] float64."""
        return encoder_flops(self.shape, lengths, dict(zip(self.layers, tokens, strict=True)))


def _read_old_logits(policy: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Convert the logits in checkpoints of earlier versions, which had no ``rate``, before they are loaded."""
    if isinstance(policy, ToP) and (logits := state_dict.pop(f"{prefix}logits", None)) is not None:
        state_dict[f"{prefix}raw_logits"] = (logits - policy.keep_bias) / policy.rate
