"""When training keeps everything, softens its gates, and removes for real."""

from __future__ import annotations

from dataclasses import dataclass

from retention.errors import Checks


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Boundaries as shares of the optimiser steps, each in [0, 1] and in this order.

    Up to ``anneal_start`` everything is kept; from there to ``anneal_end`` the budget falls linearly from 1 to its
    target; before ``pruning_start`` gates are soft, after it tokens are removed for real, so that training ends on
    exactly what inference does. Policies without soft gates remove for real from ``anneal_start`` on.

    Raises:
        ConfigError: a boundary is out of range or out of order.
    """

    anneal_start: float = 0.0
    anneal_end: float = 0.4
    pruning_start: float = 0.6

    def __post_init__(self) -> None:
        checks = Checks()
        for key in ("anneal_start", "anneal_end", "pruning_start"):
            value = getattr(self, key)
            checks.require(0.0 <= value <= 1.0, key, f"a share of training, must be in [0, 1], got {value}")
        message = f"must not be before anneal_start = {self.anneal_start}, got {self.anneal_end}"
        checks.require(self.anneal_start <= self.anneal_end, "anneal_end", message)
        checks.finish()

    def at(self, progress: float) -> tuple[str, float]:
        """Phase name and annealing (0 = keep all, 1 = full budget) at a share of training."""
        if progress < self.anneal_start:
            return "warmup", 0.0
        width = self.anneal_end - self.anneal_start
        anneal = 1.0 if width == 0 else min(1.0, (progress - self.anneal_start) / width)
        return ("soft" if progress < self.pruning_start else "hard"), anneal
