"""Measure the work that a kill would lose with the default interval of checkpoints, on a simulated clock."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import RIGHT, WRONG, Tally
from reproduction.reliability.small_runs import SMALL, composed, quiet_libraries
from retention.callbacks import last_checkpoint
from retention.records import Reliability

_EPOCHS, _STEPS = 2, 600
_STEP_S = (0.5, 20.0)  # shortest and longest step


class Clock:
    """Clock that training steps move forward.

    Attributes:
        now: seconds since the start.
        saved: time of the last checkpoint.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.saved = 0.0

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        return self.now


class _Model(pl.LightningModule):
    """One weight; each step takes a drawn time and is a moment at which a kill is tried."""

    def __init__(self, clock: Clock, draw: random.Random, tally: Tally, limit_s: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.longest_s = 0.0
        self._clock, self._draw, self._tally, self._limit_s = clock, draw, tally, limit_s

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Let time pass, and count the work that would be lost at the end of the step."""
        step_s = self._draw.uniform(*_STEP_S)
        self._clock.now += step_s
        lost = self._clock.now - self._clock.saved
        self.longest_s = max(self.longest_s, lost)
        outcome = RIGHT if lost <= self._limit_s + step_s else WRONG
        self._tally.add(outcome, "step", f"{lost:.0f} s lost at {self._clock.now:.0f} s")
        return self.weight.sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the time of the checkpoint."""
        self._clock.saved = self._clock.now

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def check_work_lost(scale: Scale, folder: Path, every_n_minutes: float | None = None) -> Reliability:
    """Try a kill at the end of each step: at most the default interval and that step may be lost.

    Args:
        scale: its seed draws the durations of the steps.
        folder: for the checkpoints.
        every_n_minutes: interval of the callback, if not the default; the limit stays that of the default.
    """
    default = float(composed([*SMALL, f"paths.run_dir={folder}"]).callbacks.checkpoint.every_n_minutes)
    tally, clock = Tally("work_lost"), Clock()
    model = _Model(clock, random.Random(scale.seed), tally, 60.0 * default)
    with quiet_libraries(folder / "cache"), mock.patch.object(last_checkpoint, "time", clock):
        callback = last_checkpoint.LastCheckpoint(str(folder), every_n_minutes=every_n_minutes or default)
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer(max_epochs=_EPOCHS, accelerator="cpu", callbacks=[callback], **quiet)
        trainer.fit(model, DataLoader(torch.zeros(_STEPS, 1), batch_size=1))  # type: ignore[arg-type]
    return tally.result(
        every_n_minutes=default, training_s=round(clock.now), most_work_lost_s=round(model.longest_s, 1)
    )
