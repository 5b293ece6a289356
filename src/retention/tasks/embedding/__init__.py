"""Embed texts: train a pruned encoder to give the embeddings of the unpruned one."""

from __future__ import annotations


def trained_class() -> type:
    """Return the class that uses trained models of this task, see ``retention.trained``."""
    from retention.tasks.embedding.trained import TextEmbedder

    return TextEmbedder
