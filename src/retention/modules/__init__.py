"""LightningModules: one shared base, one file per task head."""

from __future__ import annotations

from retention.modules.abstractive import AbstractiveSummarizationModule
from retention.modules.base import RetentionModule
from retention.modules.classification import ClassificationModule
from retention.modules.multilabel import MultiLabelModule
from retention.modules.question_answering import QuestionAnsweringModule
from retention.modules.settings import TrainingSettings
from retention.modules.summarization import ExtractiveSummarizationModule

__all__ = [
    "AbstractiveSummarizationModule",
    "ClassificationModule",
    "ExtractiveSummarizationModule",
    "MultiLabelModule",
    "QuestionAnsweringModule",
    "RetentionModule",
    "TrainingSettings",
]
