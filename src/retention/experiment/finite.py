"""Stop runs whose loss, weights or outputs are no longer finite numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from retention.errors import TrainingError

_REMEDY = "lower optimizer.lr or optimizer.policy_lr, or train with trainer.precision=32-true"


class FiniteCheck(pl.Callback):
    """Raise ``TrainingError`` when a loss, a weight or an output is not finite.

    The loss is checked at each logging step, the weights at the end of each epoch, before a checkpoint is written and
    before a test, the outputs in a test.
    """

    def __init__(self) -> None:
        self._hook: RemovableHandle | None = None

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
                raise TrainingError(f"train/loss is {float(loss)} ({position}): the training diverged; {_REMEDY}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights."""
        check_weights(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the weights before they are stored: nothing can be resumed from others."""
        check_weights(pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights, and from now on the outputs of each batch."""
        check_weights(pl_module)
        self._hook = pl_module.register_forward_hook(_check_output)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop checking outputs."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def check_weights(module: nn.Module) -> None:
    """Raise ``TrainingError`` if a parameter is not finite; the message names it."""
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(f"the weight {name} is not finite: the training diverged; {_REMEDY}")


def _check_output(module: nn.Module, arguments: Any, output: Any) -> None:
    # masked classes may be -inf, so only NaN is a fault
    if isinstance(output, Tensor) and bool(output.isnan().any()):
        raise TrainingError(f"the model's output has NaN values; {_REMEDY}")
