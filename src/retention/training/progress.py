"""Measure how much of a training is done, in steps or, where ``trainer.max_time`` ends it earlier, in time."""

from __future__ import annotations

import math

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

# Steps of a training that only its time limits; schedules depend on shares of the steps.
_UNLIMITED = 10**9


class TrainingProgress:
    """Position of a training between its start and its end.

    Without a time limit the position is the number of optimizer steps. With one it is at least the share of the time
    that has passed, in steps, so that schedules reach their end when the time is over.
    """

    def __init__(self) -> None:
        self._time_share = 0.0

    @staticmethod
    def steps(trainer: pl.Trainer) -> int:
        """Return the optimizer steps of the whole training; a large number if only time limits it."""
        steps = trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) else _UNLIMITED

    def update(self, trainer: pl.Trainer) -> None:
        """Read the clock; all ranks get the share of the first one."""
        timer = next((each for each in trainer.callbacks if isinstance(each, Timer)), None)  # type: ignore[attr-defined]
        remaining = None if timer is None else timer.time_remaining()
        if timer is None or remaining is None:
            return
        elapsed = timer.time_elapsed()
        share = min(1.0, elapsed / max(elapsed + remaining, 1e-9))
        self._time_share = float(trainer.strategy.broadcast(share))

    def position(self, step: int, steps: int) -> float:
        """Return the position in steps, in [0, steps].

        Args:
            step: optimizer steps done.
            steps: of the whole training.
        """
        return max(step, self._time_share * steps)
