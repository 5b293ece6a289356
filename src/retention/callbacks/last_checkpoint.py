"""Write ``last.ckpt`` at the end of every epoch and every few minutes within it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from typing_extensions import override

from retention.errors import ConfigError, Problem, require

LAST = "last.ckpt"
_STEPS_BETWEEN = 10  # steps of several ranks between two decisions on a checkpoint


class LastCheckpoint(ModelCheckpoint):
    """Keep one checkpoint of the latest state, from which an interrupted training can be resumed.

    Within an epoch it is written after optimizer steps only, so no accumulated gradient is lost. With ``save_top_k``
    other than 0, Lightning's own rules add further checkpoints.

    Args:
        dirpath: folder of the checkpoints.
        every_n_minutes: minutes between two checkpoints within an epoch, > 0; None = at the end of epochs only.
        settings: of Lightning's ``ModelCheckpoint``.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, dirpath: str, *, every_n_minutes: float | None = 4.0, **settings: Any) -> None:
        valid = every_n_minutes is None or (math.isfinite(every_n_minutes) and every_n_minutes > 0)
        require(valid, "every_n_minutes", f"must be > 0 and finite, or null (never), got {every_n_minutes}")
        always = bool(settings.pop("save_last", True))
        require(always, "save_last", "last.ckpt is always written; to train without checkpoints: ~callbacks.checkpoint")
        try:
            super().__init__(dirpath, **{"save_top_k": 0, **settings})
        except MisconfigurationException as error:
            raise ConfigError([Problem("", " ".join(str(error).split()))]) from error
        self._seconds = None if every_n_minutes is None else 60.0 * every_n_minutes
        self._written_at = time.monotonic()
        self._versions: list[int] | None = None  # of the weights in last.ckpt; None = not written yet
        self._finished = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._written_at = time.monotonic()
        self._finished = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if within_epoch(trainer, batch_idx) and self._is_due(trainer):
            self.write_last(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.write_last(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``last.ckpt`` again if its weights have changed since, or if the training stopped before its limits.

        Averages of weights change them. A training that stopped early is marked as ``finished``.
        """
        super().on_train_end(trainer, pl_module)
        self._finished = bool(trainer.strategy.broadcast(_stopped_early(trainer)))
        written = self._versions
        if written is not None and trainer.strategy.broadcast(written != _versions(trainer) or self._finished):
            self.write_last(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._finished:
            checkpoint["finished"] = True

    def write_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``, on all ranks together; its path is part of the state that it holds."""
        self.last_model_path = str(Path(str(self.dirpath)) / LAST)
        trainer.save_checkpoint(self.last_model_path)
        self._written_at = time.monotonic()
        self._versions = _versions(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        if self._seconds is None:
            return False
        due = time.monotonic() - self._written_at >= self._seconds
        return bool(trainer.strategy.broadcast(due))  # the clocks of the ranks differ


def _versions(trainer: Trainer) -> list[int]:
    """Return how often each weight has been changed in place, as autograd counts it."""
    return [parameter._version for parameter in trainer.lightning_module.parameters()]


def _stopped_early(trainer: Trainer) -> bool:
    """Return True if a callback such as early stopping ended the training; limits do not count, they can be raised."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    remaining = [timer.time_remaining() for timer in timers]
    return bool(trainer.should_stop) and all(seconds is None or seconds > 0 for seconds in remaining)


def within_epoch(trainer: Trainer, batch_idx: int) -> bool:
    """Return True after a batch that ended an optimizer step and was not the last one of its epoch.

    A checkpoint of that moment continues with the next batch. The last batch is left out because validation follows
    it, and the end of the epoch comes soon. With several ranks, which have to agree on what comes next, most steps are
    left out as well.
    """
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    agreed = trainer.world_size == 1 or batch_idx // trainer.accumulate_grad_batches % _STEPS_BETWEEN == 0
    return stepped and agreed and batch_idx + 1 < trainer.num_training_batches
