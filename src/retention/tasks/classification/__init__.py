"""Classify texts into one or several classes."""

from __future__ import annotations


def trained_class() -> type:
    """Return the class that uses trained models of this task, see ``retention.trained``."""
    from retention.tasks.classification.predict import Classifier

    return Classifier
