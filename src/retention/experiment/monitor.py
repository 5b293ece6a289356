"""Stop a training early if it cannot have the main metric."""

from __future__ import annotations

import pytorch_lightning as pl

from retention.errors import require


class MonitorCheck(pl.Callback):
    """Raise ``ConfigError`` after the first validation if its metrics do not include the main metric of the task.

    For heads that do not declare their metrics (``Head.metric_names``); others are checked before training.

    Args:
        monitor: name of the main metric, without ``val/``.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the names of the logged metrics."""
        names = [name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/")]
        message = f"must be one of {', '.join(sorted(names))}, got {self._monitor!r}"
        require(not names or self._monitor in names, "task.monitor", message)
