"""Stop runs whose loss or weights are no longer finite numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from retention.errors import TrainingError
from retention.training.evaluation import REMEDY


class FiniteCheck(pl.Callback):
    """Raise ``TrainingError`` when a loss or a weight is not finite.

    The loss is checked at each logging step, the weights at the end of each epoch, before a checkpoint is written and
    before a test; outputs are checked by ``RetentionModule``.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss at logging steps and in the last batch of an epoch."""
        every = int(getattr(trainer, "log_every_n_steps", 1))  # set by the trainer, but not declared
        last = batch_idx + 1 >= trainer.num_training_batches
        if last or (batch_idx + 1) % max(1, every) == 0:
            loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
            if loss is not None and not bool(torch.isfinite(loss).all()):
                position = f"step {trainer.global_step}, epoch {trainer.current_epoch}"
                raise TrainingError(f"train/loss is {float(loss)} ({position}): the training diverged; {REMEDY}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights."""
        check_weights(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the weights before they are stored: nothing can be resumed from others."""
        check_weights(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights."""
        check_weights(pl_module)


def check_weights(module: nn.Module) -> None:
    """Raise ``TrainingError`` if a parameter is not finite; the message names it."""
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(f"the weight {name} is not finite: the training diverged; {REMEDY}")
