"""Metrics as ``evaluate.Metric`` subclasses that need no hub."""

from __future__ import annotations

from retention.metrics.classification import Accuracy, LabelSetF1, MacroF1
from retention.metrics.cuad import CuadScore
from retention.metrics.qasper import QasperScore
from retention.metrics.rouge import Rouge

__all__ = ["Accuracy", "CuadScore", "LabelSetF1", "MacroF1", "QasperScore", "Rouge"]
