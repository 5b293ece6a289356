"""Rerank passages for a query with a cross-encoder."""

from __future__ import annotations


def trained_class() -> type:
    """Return the class that uses trained models of this task, see ``retention.trained``."""
    from retention.tasks.reranking.predict import Reranker

    return Reranker
