"""Stop a run at the request of a signal: save a checkpoint first, and end with the status of the signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from retention.callbacks.last_checkpoint import within_epoch

# SIGTERM: kill, schedulers; SIGINT: Ctrl-C; SIGUSR1: Slurm, some time before the limit (sbatch --signal=USR1@60)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Stopped(SystemExit):
    """Raised where a run stops because of a signal; its exit status is 128 + the number of the signal, as in a shell.

    Not an ``Exception``, so that a sweep stops with its job.

    Attributes:
        name: of the signal, such as ``SIGTERM``.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.name = signal.Signals(signum).name


class StopSignals(Checkpoint):
    """Note signals, and stop the trainer at the next moment from which the run can be resumed.

    In training that is the end of an optimizer step, or the end of the epoch (after its validation) if the step was the
    epoch's last; a checkpoint is written first. A test stops after the batch. A second signal stops at once, without a
    checkpoint. Lightning calls callbacks of this base class after all others.

    Args:
        path: file that the checkpoint is written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within the context; in other threads than the main one this has no effect."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
        self._listen()
        try:
            yield
            self.check()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def check(self) -> None:
        """Raise ``Stopped`` if a signal was received."""
        if self._received is not None:
            raise Stopped(self._received)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's own handler, which would leave a validation half-way and end with status 0."""
        self._listen()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's own handler, see ``on_train_start``."""
        self._listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop after an optimizer step."""
        if within_epoch(trainer, batch_idx):
            self._save_and_stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save and stop at the end of an epoch."""
        self._save_and_stop(trainer)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop a test; there is nothing to save."""
        if self._requested(trainer):
            self.check()

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self._received is not None:
            raise Stopped(signum)
        self._received = signum
        message = f"\n{signal.Signals(signum).name}: stopping after this step (the same signal again: at once)\n"
        os.write(2, message.encode())  # print is not safe in a signal handler

    def _requested(self, trainer: pl.Trainer) -> bool:
        """Return True if a rank received a signal; then all ranks stop."""
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)
            if received and self._received is None:
                self._received = signal.SIGTERM
        return self._received is not None

    def _save_and_stop(self, trainer: pl.Trainer) -> None:
        if self._requested(trainer):
            trainer.save_checkpoint(self._path)
            self.check()
