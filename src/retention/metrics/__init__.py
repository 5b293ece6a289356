"""Metrics as ``evaluate.Metric`` subclasses that need no hub."""

from __future__ import annotations

from retention.metrics.classification import Accuracy

__all__ = ["Accuracy"]
