"""Base class of the metrics of tasks, which copies of a model can hold."""

from __future__ import annotations

from typing import Any

import evaluate


class TaskMetric(evaluate.Metric):
    """Metric of the library ``evaluate`` whose copies and pickles are new instances.

    After its first use such a metric holds an open file and its lock, which cannot be copied. Heads keep their metrics,
    so callbacks that copy the model during training (moving averages of weights) would fail.
    """

    def __reduce__(self) -> tuple[type[Any], tuple[()]]:
        return type(self), ()
