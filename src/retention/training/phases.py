"""Define the phases of training: warmup, soft gating, hard pruning."""

from __future__ import annotations

from dataclasses import dataclass

from retention.errors import require, require_number


@dataclass(frozen=True, kw_only=True)
class TrainingPhases:
    """Boundaries of the training phases, as shares of the optimizer steps.

    Warmup keeps all tokens up to ``anneal_start``. From there to ``anneal_end`` the target keep ratio falls linearly
    from 1 to rho. Gates are soft before ``pruning_start``; after it tokens are removed, so that training ends on
    exactly what inference does. Policies without soft gates remove tokens from ``anneal_start`` on.

    Attributes:
        anneal_start: end of the warmup, in [0, 1].
        anneal_end: end of the annealing, in [anneal_start, 1].
        pruning_start: start of hard pruning, in [0, 1].

    Raises:
        ConfigError: a boundary is out of range or out of order.
    """

    anneal_start: float = 0.0
    anneal_end: float = 0.4
    pruning_start: float = 0.6

    def __post_init__(self) -> None:
        for key in ("anneal_start", "anneal_end", "pruning_start"):
            require_number(key, getattr(self, key), low=0, high=1, name="share of training,")
        message = f"must not be before anneal_start = {self.anneal_start}, got {self.anneal_end}"
        require(self.anneal_start <= self.anneal_end, "anneal_end", message)

    def at(self, progress: float) -> tuple[str, float]:
        """Return the phase and the annealing (0 = keep all, 1 = full budget) at a share of training.

        Args:
            progress: steps done / all steps, in [0, 1].

        Returns:
            ``warmup``, ``soft`` or ``hard``, and a number in [0, 1].
        """
        if progress < self.anneal_start:
            return "warmup", 0.0
        width = self.anneal_end - self.anneal_start
        anneal = 1.0 if width == 0 else min(1.0, (progress - self.anneal_start) / width)
        return ("soft" if progress < self.pruning_start else "hard"), anneal
