"""Count the cost of a training in dense epochs, with the runs that it started from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from retention.callbacks.totals import RunningTotals
from retention.callbacks.watched_module import as_watched

CHECKPOINT_KEY = "training_cost"
_COUNTS = ("student", "teacher", "dense", "batches")


class TrainingCost(Callback):
    """Count the FLOPs of all training steps, and store them in checkpoints.

    The unit is the *dense epoch*: forward and backward pass of the full dense encoder over the training rows of this
    run, once. FLOPs are those of the encoder on real tokens; a backward pass counts as two forward passes. Of the
    teacher counts every pass that a run on its own needs, also where its outputs were read from a cache. A checkpoint
    that training started from (``init``), or that taught it, adds the FLOPs of its own training and of the runs before
    it, which its file holds.
    """

    def __init__(self) -> None:
        self._totals = RunningTotals(**dict.fromkeys(_COUNTS, 1))
        self._before = dict.fromkeys(_COUNTS, 0.0)  # of the run that is resumed
        self._earlier: float | None = 0.0
        self._summary: dict[str, Any] = {}

    def add_earlier_run(self, content: Mapping[str, Any]) -> None:
        """Add the cost of the run that wrote a checkpoint.

        Args:
            content: of the checkpoint. One of an earlier version has no cost: the total is unknown then.
        """
        flops = (content.get(CHECKPOINT_KEY) or {}).get("total_flops")
        self._earlier = None if flops is None or self._earlier is None else self._earlier + float(flops)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over the cost of a training that is complete.

        Args:
            content: of its checkpoint.
        """
        self._summary = dict(content.get(CHECKPOINT_KEY) or {})

    def summary(self) -> dict[str, Any]:
        """Return the cost of the training; {} if there was none.

        Keys: ``dense_epochs`` (this run), ``teacher_dense_epochs`` (the part of it that the teacher took),
        ``earlier_dense_epochs`` (runs that it started from or was taught by) and ``total_dense_epochs``; the last two
        are None if a checkpoint does not tell its cost. ``total_flops`` and ``dense_epoch_flops`` are in FLOPs.
        """
        return dict(self._summary)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        student, teacher, dense = as_watched(pl_module).step_flops()
        self._totals.add(student=student, teacher=teacher, dense=dense, batches=1)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._summarize(trainer)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._summarize(trainer)
        checkpoint[CHECKPOINT_KEY] = self.summary()

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get(CHECKPOINT_KEY) or {}
        self._before = dict(stored.get("counts") or dict.fromkeys(_COUNTS, 0.0))

    def _summarize(self, trainer: Trainer) -> None:
        """Compute the summary; every rank must call it."""
        sums = self._totals.read(trainer)
        counts = {name: self._before[name] + sums[name][0] for name in _COUNTS}
        if counts["batches"] == 0 or counts["dense"] == 0:
            return
        batches_per_epoch = float(trainer.num_training_batches) * trainer.world_size
        epoch = counts["dense"] / counts["batches"] * batches_per_epoch
        spent = counts["student"] + counts["teacher"]
        earlier = self._earlier
        self._summary = {
            "dense_epochs": spent / epoch,
            "teacher_dense_epochs": counts["teacher"] / epoch,
            "earlier_dense_epochs": None if earlier is None else earlier / epoch,
            "total_dense_epochs": None if earlier is None else (earlier + spent) / epoch,
            "total_flops": None if earlier is None else earlier + spent,
            "dense_epoch_flops": epoch,
            "counts": counts,
        }
