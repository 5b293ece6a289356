"""Length-Adaptive Transformer: one model for all lengths (Kim and Cho, ACL 2021, arXiv 2010.07003)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from retention.core.budget import Budget
from retention.core.flops import EncoderShape
from retention.engine.gate import LayerView
from retention.engine.report import ForwardReport
from retention.errors import require_number
from retention.policies.bases.retention_policy import RetentionPolicy, observed


class LengthAdaptive(RetentionPolicy):
    """Keep the tokens that receive the most attention; trained on random lengths, for any keep ratio at test time.

    Training: lengths are sampled in every pass. Of each four samples of a batch, one keeps everything, one has the
    ``smallest`` keep ratio, and two drop a random part of what the smallest drops, at each layer independently: the
    paper's sandwich of the full, the smallest and two random models. ``dropped=forward`` is its Drop-and-Restore. Needs
    attention maps (eager attention).

    Source: Length-Adaptive Transformer (arXiv 2010.07003).

    Differs from the paper: the sandwich is spread over the samples of one pass instead of four passes over one batch,
    so the outputs of the full model come from a dense teacher (``distill``); layers are not dropped; the evolutionary
    search for length configurations is replaced by the schedule. ``prune_at=after_attention`` removes tokens at the
    paper's location.

    Args:
        smallest: smallest mean keep ratio in training, in (0, rho]; distributed over depth by the same schedule.
        **settings: see ``RetentionPolicy``; ``rho``, ``schedule`` and ``slope`` apply at test time.

    Raises:
        ConfigError: a setting is out of range.
    """

    observes: ClassVar[tuple[str, ...]] = ("attention",)
    any_budget: ClassVar[bool] = False  # samples its own budgets

    def __init__(self, *, smallest: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        require_number("smallest", smallest, above=0, high=self.rho, name="the smallest keep ratio (at most rho)")
        self.smallest = smallest

    def build(self, shape: EncoderShape, name: str = "the encoder") -> None:
        """Compute the smallest keep ratios and activate every gate."""
        super().build(shape, name)
        smallest = Budget(rho=self.smallest, schedule=self.schedule, num_gates=len(self.layers), slope=self.slope)
        self.smallest_ratios = smallest.keep_ratios()
        self.active = (True,) * len(self.layers)  # a gate that removes nothing at one keep ratio does at another

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass; in training the counts are sampled."""
        super().begin(report)
        if self.training:
            self._counts = self.budget.counts_of(self.sample_keep_ratios(len(report.lengths)), report.lengths)

    @property
    def follows_budget(self) -> bool:
        """Return True: it is trained at random lengths."""
        return True

    def sample_keep_ratios(self, samples: int) -> Tensor:
        """Sample the keep ratios of one training pass, [G, B] on the CPU: full, smallest, random, random, repeated."""
        smallest = 1.0 - self.current_anneal * (1.0 - self.smallest_ratios.detach().cpu().double())
        remaining = torch.cat([torch.ones(1, dtype=torch.float64), smallest])
        drops = (1.0 - remaining[1:] / remaining[:-1]).unsqueeze(1)  # relative to what the previous gate kept
        strength = torch.rand(len(smallest), samples, dtype=torch.float64)
        role = (torch.arange(samples) + int(torch.randint(4, ()))) % 4
        strength = torch.where(role == 0, 0.0, torch.where(role == 1, 1.0, strength))
        return (1.0 - strength * drops).cumprod(0)

    def score(self, view: LayerView) -> Tensor:
        """Return the received attention."""
        return observed(view.attention_statistics)
