"""Log throughput in real tokens and samples per second."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from retention.callbacks.totals import RunningTotals, log_epoch, max_over_ranks
from retention.errors import require


class ThroughputTimer:
    """Time windows of consecutive batches after a warm-up.

    The device is synchronized only at the start and the end of a window, so that the steps inside overlap as they do
    without timing. Loading data between the batches of a window is included.

    Args:
        warmup_steps: batches before the first window, >= 0.
    """

    def __init__(self, warmup_steps: int) -> None:
        self._warmup_left = warmup_steps
        self._opened: float | None = None
        self._seconds = 0.0
        self._counts = RunningTotals(tokens=1, samples=1, batches=1)
        self._run = {"tokens": 0.0, "samples": 0.0, "batches": 0.0, "seconds": 0.0}

    def start_batch(self, device: torch.device) -> None:
        """Open a window, unless one is open or the warm-up is not over."""
        if self._opened is None and self._warmup_left == 0:
            _synchronize(device)
            self._opened = perf_counter()

    def end_batch(self, batch: Mapping[str, Any]) -> None:
        """Count a batch of the open window or of the warm-up."""
        if self._opened is None:
            self._warmup_left -= 1
            return
        mask = batch["attention_mask"]
        self._counts.add(tokens=mask.sum(), samples=mask.shape[0], batches=1)

    def close(self, device: torch.device) -> None:
        """Close the window if one is open."""
        if self._opened is not None:
            _synchronize(device)
            self._seconds += perf_counter() - self._opened
            self._opened = None

    def read_and_reset(self, trainer: Trainer) -> dict[str, float]:
        """Return the rates since the last call, work of all ranks / time of the slowest; {} if nothing was timed."""
        counts = {name: value[0] for name, value in self._counts.read(trainer).items()}
        counts["seconds"] = max_over_ranks(trainer, self._seconds)
        self._counts = RunningTotals(tokens=1, samples=1, batches=1)
        self._seconds = 0.0
        for name, value in counts.items():
            self._run[name] += value
        return _rates(counts)

    def overall(self) -> dict[str, float]:
        """Return the rates over the whole run; {} if nothing was timed."""
        return _rates(self._run)

    def timed_batches(self) -> int:
        """Return the number of timed batches, over the whole run and all ranks."""
        return int(self._run["batches"])


class Throughput(Callback):
    """Log real tokens (without padding) and samples per second, for training and testing.

    ``perf/tokens_per_s`` and ``perf/samples_per_s`` cover training steps, without validation and the writing of
    checkpoints; ``perf/test_tokens_per_s`` and ``perf/test_samples_per_s`` cover the test run. A stage without batches
    after the warm-up logs nothing.

    Rates are not restored when a run is resumed, because they belong to the machine that measured them.

    Args:
        warmup_steps: batches left out at the start of training and of testing, >= 0.

    Raises:
        ConfigError: ``warmup_steps`` is negative.
    """

    def __init__(self, *, warmup_steps: int = 3) -> None:
        require(warmup_steps >= 0, "warmup_steps", f"must be >= 0 batches, got {warmup_steps}")
        self.warmup_steps = warmup_steps
        self._train = ThroughputTimer(warmup_steps)
        self._test = ThroughputTimer(warmup_steps)

    def summary(self) -> dict[str, float | int | None]:
        """Return the rates of the whole run (None for a stage that was not timed) and the number of timed batches."""
        train, test = self._train.overall(), self._test.overall()
        return {
            "tokens_per_s": train.get("tokens_per_s"),
            "samples_per_s": train.get("samples_per_s"),
            "timed_batches": self._train.timed_batches(),
            "test_tokens_per_s": test.get("tokens_per_s"),
            "test_samples_per_s": test.get("samples_per_s"),
            "test_timed_batches": self._test.timed_batches(),
        }

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train = ThroughputTimer(self.warmup_steps)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._train.start_batch(pl_module.device)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._train.end_batch(batch)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train.close(pl_module.device)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._train.close(pl_module.device)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train.close(pl_module.device)
        log_epoch(pl_module, {f"perf/{name}": rate for name, rate in self._train.read_and_reset(trainer).items()})

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test = ThroughputTimer(self.warmup_steps)

    @override
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._test.start_batch(pl_module.device)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._test.end_batch(batch)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test.close(pl_module.device)
        log_epoch(pl_module, {f"perf/test_{name}": rate for name, rate in self._test.read_and_reset(trainer).items()})


def _rates(counts: dict[str, float]) -> dict[str, float]:
    if counts["seconds"] <= 0.0:
        return {}
    return {f"{name}_per_s": counts[name] / counts["seconds"] for name in ("tokens", "samples")}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
