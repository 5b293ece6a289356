"""Tokens and samples per second, counted on real tokens."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from retention.callbacks.contract import Batch
from retention.callbacks.totals import Totals, largest, log_epoch
from retention.errors import Checks


class Stopwatch:
    """Times windows of consecutive batches after a warm-up.

    The device is waited for at the two edges of a window only, so that the steps inside overlap as they would without
    a stopwatch. Loading between the batches of a window counts.

    Args:
        warmup_steps: batches to let pass before the first window, >= 0.
    """

    def __init__(self, warmup_steps: int) -> None:
        self._warmup_left = warmup_steps
        self._opened: float | None = None
        self._seconds = 0.0
        self._counts = Totals(tokens=1, samples=1, batches=1)
        self._run = {"tokens": 0.0, "samples": 0.0, "batches": 0.0, "seconds": 0.0}

    def batch_starts(self, device: torch.device) -> None:
        """Open a window, unless one is open or the warm-up still runs."""
        if self._opened is None and self._warmup_left == 0:
            _wait_for(device)
            self._opened = perf_counter()

    def batch_ends(self, batch: Batch) -> None:
        """Count a batch of the open window, or one of the warm-up."""
        if self._opened is None:
            self._warmup_left -= 1
            return
        mask = batch["attention_mask"]
        self._counts.add(tokens=mask.sum(), samples=mask.shape[0], batches=1)

    def close(self, device: torch.device) -> None:
        """Close the window if one is open."""
        if self._opened is not None:
            _wait_for(device)
            self._seconds += perf_counter() - self._opened
            self._opened = None

    def lap(self, trainer: Trainer) -> dict[str, float]:
        """Rates since the last lap over all ranks (their sum of work in the longest of their times); {} if none."""
        counts = {name: value[0] for name, value in self._counts.read(trainer).items()}
        counts["seconds"] = largest(trainer, self._seconds)
        self._counts = Totals(tokens=1, samples=1, batches=1)
        self._seconds = 0.0
        for name, value in counts.items():
            self._run[name] += value
        return _rates(counts)

    def overall(self) -> dict[str, float]:
        """Rates over all laps; {} if nothing was timed."""
        return _rates(self._run)

    def timed_batches(self) -> int:
        """Batches inside windows, over all laps and ranks."""
        return int(self._run["batches"])


class Throughput(Callback):
    """Logs real tokens (not padding) and samples per second, training and testing apart.

    Training is timed in windows that stop for validation and for writing a checkpoint, so neither is in the figures:
    ``perf/tokens_per_s``, ``perf/samples_per_s``. The test run is one window: ``perf/test_tokens_per_s``,
    ``perf/test_samples_per_s``. A stage with no batch after the warm-up logs nothing.

    Holds no state for a resumed run: a rate belongs to the machine that measured it.

    Args:
        warmup_steps: batches left out at the start of training and of testing, >= 0.

    Raises:
        ConfigError: ``warmup_steps`` is negative.
    """

    def __init__(self, *, warmup_steps: int = 3) -> None:
        checks = Checks()
        checks.require(warmup_steps >= 0, "warmup_steps", f"must be >= 0 batches, got {warmup_steps}")
        checks.finish()
        self.warmup_steps = warmup_steps
        self._train = Stopwatch(warmup_steps)
        self._test = Stopwatch(warmup_steps)

    def summary(self) -> dict[str, float | int | None]:
        """Rates over the whole run, None where nothing was timed, and the number of timed batches."""
        train, test = self._train.overall(), self._test.overall()
        return {
            "tokens_per_s": train.get("tokens_per_s"),
            "samples_per_s": train.get("samples_per_s"),
            "timed_batches": self._train.timed_batches(),
            "test_tokens_per_s": test.get("tokens_per_s"),
            "test_samples_per_s": test.get("samples_per_s"),
            "test_timed_batches": self._test.timed_batches(),
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train = Stopwatch(self.warmup_steps)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._train.batch_starts(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._train.batch_ends(batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train.close(pl_module.device)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._train.close(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train.close(pl_module.device)
        log_epoch(pl_module, {f"perf/{name}": rate for name, rate in self._train.lap(trainer).items()})

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test = Stopwatch(self.warmup_steps)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._test.batch_starts(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._test.batch_ends(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test.close(pl_module.device)
        log_epoch(pl_module, {f"perf/test_{name}": rate for name, rate in self._test.lap(trainer).items()})


def _rates(counts: dict[str, float]) -> dict[str, float]:
    if counts["seconds"] <= 0.0:
        return {}
    return {f"{name}_per_s": counts[name] / counts["seconds"] for name in ("tokens", "samples")}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
