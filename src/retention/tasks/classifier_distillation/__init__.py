"""Prune a fine-tuned classifier or cross-encoder: train it to answer as it did before, from texts without labels."""

from __future__ import annotations


def trained_class() -> type:
    """Return the class that uses trained models of this task, see ``retention.trained``."""
    from retention.tasks.classifier_distillation.trained import PrunedClassifier

    return PrunedClassifier
