"""Length-Adaptive Transformer: one model for all lengths (Kim and Cho, ACL 2021, arXiv 2010.07003)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.core.budget import Budget, whole_counts
from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.engine.report import ForwardReport
from retention.errors import Checks
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class LengthAdaptive(RetentionPolicy):
    """Keeps the tokens that get most attention; trained on random lengths, so that any share fits at test time.

    Training needs: lengths are drawn anew in every pass. Of each four samples of a batch, one keeps everything, one
    keeps the ``smallest`` share, and two drop a random part of what the smallest drops, at each layer independently:
    the paper's sandwich of full, smallest and two random models. ``dropped=forward`` is its Drop-and-Restore.

    Differs from the paper: the sandwich lies across the samples of one pass instead of four passes over the same
    batch, so the full model's answers come from a dense teacher (``distill``) instead of from the pass itself; layers
    are not dropped; the evolutionary search for length configurations is replaced by the schedule.
    ``prune_at=after_attention`` lets tokens leave where the paper does.

    Args:
        smallest: least mean share that training draws, in (0, rho].
        rho, schedule, slope: at test time, see ``RetentionPolicy``; the smallest share has the same schedule.
        layers, name: see ``RetentionPolicy``.

    Raises:
        ConfigError: a setting is out of range.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)
    any_budget: ClassVar[bool] = False  # draws its own

    def __init__(self, *, smallest: float = 0.1, **settings: Any) -> None:
        checks = Checks()
        rho = settings.get("rho", 1.0)
        message = f"must be in (0, rho = {rho}], the shares it was trained for, got {smallest}"
        checks.require(0.0 < smallest <= rho, "smallest", message)
        checks.gather(lambda: RetentionPolicy.check(**settings))
        checks.finish()
        super().__init__(**settings)
        self.smallest = smallest

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        super().build(shape, name)
        self.least = Budget(
            rho=self.smallest, schedule=self.schedule, num_gates=len(self.layers), slope=self.slope
        ).shares()
        self.active = (True,) * len(self.layers)  # gates that have nothing to do at one share have at another

    def begin(self, report: ForwardReport) -> None:
        super().begin(report)
        if self.training:
            self._counts = whole_counts(self.draw(len(report.lengths)), report.lengths)

    def draw(self, samples: int) -> Tensor:
        """Shares of one training pass, [G, B], on the CPU: full, smallest, random, random, and so on."""
        least = 1.0 - self.current_anneal * (1.0 - self.least.detach().cpu().double())
        left = torch.cat([torch.ones(1, dtype=torch.float64), least])
        drops = (1.0 - left[1:] / left[:-1]).unsqueeze(1)  # at each gate, of what the gate before it let through
        strength = torch.rand(len(least), samples, dtype=torch.float64)
        role = (torch.arange(samples) + int(torch.randint(4, ()))) % 4
        strength = torch.where(role == 0, 0.0, torch.where(role == 1, 1.0, strength))
        return (1.0 - strength * drops).cumprod(0)

    def score(self, view: LayerView) -> Tensor:
        return observed(view.received_attention)
