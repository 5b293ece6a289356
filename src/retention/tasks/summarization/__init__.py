"""Summarize documents, extractively or abstractively."""

from __future__ import annotations


def trained_class() -> type:
    """Return the class that uses trained models of this task, see ``retention.trained``."""
    from retention.tasks.summarization.predict import Summarizer

    return Summarizer
