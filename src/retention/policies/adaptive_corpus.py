"""Adaptive retention with a budget for the corpus: easy sequences keep fewer tokens than difficult ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.engine.pass_values import PassValue
from retention.errors import require
from retention.policies.adaptive import Adaptive

_GAIN = 4.0  # step of a threshold, in standard deviations of the importance, per excess share of kept tokens
_SLOWEST = 0.02  # smallest rate of these steps, which start at 1 / batches


class AdaptiveCorpus(Adaptive):
    """Compare the scores of all sequences with one threshold per gate, which the corpus meets the budget with.

    What is compared is a token's share of its sequence's softmax, relative to an equal share: p_t n > 1 for a token
    that counts more than the average of its n competitors. It does not change if all scores of a sequence are shifted,
    which no ranking loss determines (``set_saliency``). A sequence whose importance lies on few tokens keeps few.

    During hard pruning in training each batch keeps as many tokens as its sequences' budgets together, divided among
    them by the threshold that leads to this sum. The threshold at test time follows the batches by stochastic
    approximation, until it keeps the budget on average. The achieved keep ratio is therefore near ``rho``, and is
    measured in each run. Before hard pruning, validation keeps the budget of each sequence. Otherwise as ``Adaptive``.

    Args:
        **settings: see ``Adaptive``.

    Attributes:
        thresholds: [G] buffer, of log(p_t n).
        batches: [G] buffer, batches that each threshold has followed.
        calibrated_rho: scalar buffer, the ``rho`` of the thresholds; 0 = none yet.
    """

    any_budget = False
    thresholds: Tensor
    batches: Tensor
    calibrated_rho: Tensor
    _observed = PassValue[dict[int, tuple[Tensor, Tensor]]](dict)  # gate -> threshold of the batch, and the step

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register_buffer("calibrated_rho", torch.zeros(()))

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Allocate scorers, dual variables and thresholds."""
        super().build(shape, name)
        self.register_buffer("thresholds", torch.zeros(len(self.layers)))
        self.register_buffer("batches", torch.zeros(len(self.layers)))

    @property
    def exact(self) -> bool:
        """Return False: the count depends on the sample."""
        return False

    def select(self, gate: int, scores: Tensor, view: LayerView) -> Tensor:
        """Select the tokens whose relative importance reaches the threshold of the batch or, at test time, the gate."""
        if not self.training and not bool(self.batches[gate] > 0):
            return super().select(gate, scores, view)
        free = view.valid & ~view.protected
        importance = relative_importance(scores.detach(), free)
        threshold = self._batch_threshold(gate, importance, view) if self.training else self._threshold(gate)
        return self.select_above(importance.masked_fill(~free, -torch.inf), threshold, view)

    def _threshold(self, gate: int) -> Tensor:
        before = float(self.calibrated_rho)
        message = f"adaptive_corpus has thresholds for {before:g}, got {self.rho:g}; train it for each budget"
        require(abs(before - self.rho) <= torch.finfo(self.calibrated_rho.dtype).eps, "rho", message)
        return self.thresholds[gate]

    @torch.no_grad()
    def _batch_threshold(self, gate: int, importance: Tensor, view: LayerView) -> Tensor:
        """Return the threshold at which the batch meets its budget, and record what that of the gate would keep."""
        free = view.valid & ~view.protected
        candidates = importance[free].sort(descending=True).values
        count = min(int((self.counts[gate] - view.protected.sum(1)).clamp_min(0).sum()), len(candidates))
        if count == 0:
            return importance.new_full((), math.inf)
        threshold = candidates[count - 1]
        excess = (candidates >= self.thresholds[gate]).float().mean() - count / len(candidates)
        spread = candidates.std() if len(candidates) > 1 else excess.new_zeros(())
        self._observed[gate] = threshold, spread * excess
        return threshold

    def step_dual(self, slack: Tensor) -> None:
        """Update the multipliers, and move the thresholds toward the budget of the last batch."""
        super().step_dual(slack)
        for gate, (threshold, move) in self._observed.items():
            self.batches[gate] += 1
            if self.batches[gate] == 1:
                self.thresholds[gate] = threshold
            else:
                # Follows what it keeps: a mean of the batches' thresholds would keep another share than they do.
                self.thresholds[gate] += _GAIN * (1.0 / self.batches[gate]).clamp_min(_SLOWEST) * move
            self.calibrated_rho.fill_(self.rho)


def relative_importance(scores: Tensor, free: Tensor) -> Tensor:
    """Compute log(p n) of each token, with p its share of the softmax over the n free tokens of its sequence, [B, N].

    Args:
        scores: [B, N].
        free: [B, N] bool, tokens that compete; values elsewhere are not meaningful.
    """
    log_shares = scores.float().masked_fill(~free, -torch.inf).log_softmax(1)
    return torch.where(free, log_shares, 0.0) + free.sum(1, keepdim=True).clamp_min(1).log()
