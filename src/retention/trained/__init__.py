"""Use trained models: load a run folder and predict, ask questions, summarize, rerank, or embed.

``load`` returns a ``Classifier``, ``Reader``, ``Summarizer``, ``Reranker`` or ``TextEmbedder``, depending on the task.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retention.tasks.classification.predict import Classifier, Prediction
    from retention.tasks.embedding.trained import TextEmbedder
    from retention.tasks.question_answering.predict import Answer, Reader
    from retention.tasks.reranking.predict import RankedPassage, Reranker
    from retention.tasks.summarization.predict import Summarizer, Summary
    from retention.tasks.trained_model import TrainedModel
    from retention.trained.loading import load

_LOCATIONS = {
    "Classifier": "retention.tasks.classification.predict",
    "Prediction": "retention.tasks.classification.predict",
    "Answer": "retention.tasks.question_answering.predict",
    "Reader": "retention.tasks.question_answering.predict",
    "RankedPassage": "retention.tasks.reranking.predict",
    "Reranker": "retention.tasks.reranking.predict",
    "Summarizer": "retention.tasks.summarization.predict",
    "Summary": "retention.tasks.summarization.predict",
    "TextEmbedder": "retention.tasks.embedding.trained",
    "load": "retention.trained.loading",
    "TrainedModel": "retention.tasks.trained_model",
}

__all__ = [
    "Answer",
    "Classifier",
    "Prediction",
    "RankedPassage",
    "Reader",
    "Reranker",
    "Summarizer",
    "Summary",
    "TextEmbedder",
    "TrainedModel",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOCATIONS[name]), name)
