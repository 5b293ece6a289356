"""Peak memory of training and of testing."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer

from retention.callbacks.gauges import Gauge, gauge_for
from retention.callbacks.totals import largest, log_epoch


class Memory(Callback):
    """Logs the highest memory use of an epoch, the largest over all ranks.

    ``perf/peak_mib`` covers the training steps only: the mark is read before a validation run and set back after it.
    ``perf/test_peak_mib`` covers the test run. What is counted depends on the device and is named by ``memory_kind``:
    ``cuda_allocated``, ``resident_peak`` (CPU, since the last reset) or ``resident_peak_of_process`` (CPU where the
    mark cannot be reset: since the process started).

    Holds no state for a resumed run: a peak belongs to the process that measured it.
    """

    def __init__(self) -> None:
        self._gauge: Gauge | None = None
        self._epoch_mib = 0.0
        self._train_mib: float | None = None
        self._test_mib: float | None = None

    def summary(self) -> dict[str, float | str | None]:
        """Peaks over the whole run in MiB (None where the stage did not run) and what they count."""
        kind = None if self._gauge is None else self._gauge.kind
        return {"peak_mib": self._train_mib, "test_peak_mib": self._test_mib, "memory_kind": kind}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._gauge = gauge_for(trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_mib = 0.0
        self._open_gauge().reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_mib = max(self._epoch_mib, self._open_gauge().peak_mib())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_gauge().reset()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_mib = max(self._epoch_mib, self._open_gauge().peak_mib())
        peak = largest(trainer, self._epoch_mib)
        self._train_mib = max(peak, self._train_mib or 0.0)
        log_epoch(pl_module, {"perf/peak_mib": peak})

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_gauge().reset()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test_mib = largest(trainer, self._open_gauge().peak_mib())
        log_epoch(pl_module, {"perf/test_peak_mib": self._test_mib})

    def _open_gauge(self) -> Gauge:
        if self._gauge is None:
            raise RuntimeError("Memory was used before Trainer.setup; pass it to Trainer(callbacks=[...])")
        return self._gauge
