"""Log the peak memory of training and testing."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from retention.callbacks.memory_gauges import MemoryGauge, gauge_for
from retention.callbacks.totals import log_epoch, max_over_ranks


class Memory(Callback):
    """Log the peak memory of each epoch, maximum over all ranks.

    ``perf/peak_mib`` covers the training steps only: the peak is read before validation and reset after it.
    ``perf/test_peak_mib`` covers the test run. ``memory_kind`` says what is counted: ``cuda_allocated``,
    ``resident_peak`` (CPU, since the last reset) or ``resident_peak_of_process`` (CPU where the peak cannot be reset:
    since the process started).

    Peaks are not restored when a run is resumed, because they belong to the process that measured them.
    """

    def __init__(self) -> None:
        self._gauge: MemoryGauge | None = None
        self._epoch_mib = 0.0
        self._train_mib: float | None = None
        self._test_mib: float | None = None

    def summary(self) -> dict[str, float | str | None]:
        """Return the peaks of the whole run in MiB (None for a stage that did not run) and ``memory_kind``."""
        kind = None if self._gauge is None else self._gauge.kind
        return {"peak_mib": self._train_mib, "test_peak_mib": self._test_mib, "memory_kind": kind}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._gauge = gauge_for(trainer.strategy.root_device)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_mib = 0.0
        self._active_gauge().reset()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_mib = max(self._epoch_mib, self._active_gauge().peak_mib())

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active_gauge().reset()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_mib = max(self._epoch_mib, self._active_gauge().peak_mib())
        peak = max_over_ranks(trainer, self._epoch_mib)
        self._train_mib = max(peak, self._train_mib or 0.0)
        log_epoch(pl_module, {"perf/peak_mib": peak})

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active_gauge().reset()

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test_mib = max_over_ranks(trainer, self._active_gauge().peak_mib())
        log_epoch(pl_module, {"perf/test_peak_mib": self._test_mib})

    def _active_gauge(self) -> MemoryGauge:
        if self._gauge is None:
            raise RuntimeError("the Memory callback is not set up; pass it to Trainer(callbacks=[...])")
        return self._gauge
