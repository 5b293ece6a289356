"""Read how an embedding model turns token states into vectors, from the folder of its encoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from retention.engine import encoder_of
from retention.errors import CheckpointError, require
from retention.pretrained.folder import resolve_folder
from retention.pretrained.sentence_files import EmbeddingSettings, read_settings


def source_settings(encoder: nn.Module) -> EmbeddingSettings | None:
    """Return the settings of the sentence-transformers model that an encoder was loaded from.

    Args:
        encoder: Hugging Face encoder.

    Returns:
        The settings; None if it was loaded from a plain encoder, or from a folder that is gone.

    Raises:
        CheckpointError: the folder's files cannot be read, or describe a model of other parts.
    """
    config: Any = encoder_of(encoder).config
    name = str(config._name_or_path or "")
    try:
        folder = resolve_folder(name) if name else None
    except CheckpointError:
        return None
    return None if folder is None else read_settings(folder)


def check_source_pooling(pooling: str, settings: EmbeddingSettings | None) -> None:
    """Raise ``ConfigError`` if a pooling does not give the embeddings of the model that is distilled.

    Args:
        pooling: of the head; ``mean``, ``depth`` and ``survivors`` are the same without token removal.
        settings: of the model; None = not known.
    """
    if settings is not None:
        message = f"the model is read by {settings.pooling}, got {pooling}; set it to {settings.pooling}"
        require((settings.pooling == "cls") == (pooling == "cls"), "task.head.pooling", message)
