"""Answer questions by spans of a text."""

from __future__ import annotations


def trained_class() -> type:
    """Return the class that uses trained models of this task, see ``retention.trained``."""
    from retention.tasks.question_answering.predict import Reader

    return Reader
