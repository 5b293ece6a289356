"""LightningModules: one shared base, one file per task head."""

from __future__ import annotations

from retention.modules.base import RetentionModule, TrainingSettings
from retention.modules.classification import ClassificationModule

__all__ = ["ClassificationModule", "RetentionModule", "TrainingSettings"]
