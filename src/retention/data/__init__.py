"""Data modules: benchmarks as token rows, batched by length."""

from retention.data.base import RetentionData
from retention.data.batching import Batch
from retention.data.keywords import KeywordData
from retention.data.labelled_text import LabelledTextData
from retention.data.settings import DataSettings
from retention.data.text_classification import TextClassificationData

__all__ = [
    "Batch",
    "DataSettings",
    "KeywordData",
    "LabelledTextData",
    "RetentionData",
    "TextClassificationData",
]
