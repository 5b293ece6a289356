"""Embed texts with a trained model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

from torch import Tensor

from retention.pretrained.embedder import Embedder
from retention.pretrained.kept_tokens import KeptTokens
from retention.tasks.embedding.head import EmbeddingHead
from retention.tasks.trained_model import TrainedModel


class TextEmbedder(TrainedModel):
    """Trained model that turns texts into vectors."""

    example: ClassVar[str] = 'model.encode(["a text", "another one"], rho=0.3)'

    @cached_property
    def embedder(self) -> Embedder:
        """Return the model as an ``Embedder``, which shares its weights."""
        head, retainer = cast(EmbeddingHead, self.model.head), self.model.retainer
        return Embedder.build(
            self.encoder,
            self.tokenizer,
            self.policy,
            head.settings(self.max_length),
            dropped=retainer.dropped,
            prune_at=retainer.prune_at,
            protect=head.protect == "special",
        ).eval()

    def encode(
        self, texts: Iterable[str], rho: float | None = None, batch_size: int = 32, show_progress: bool = False
    ) -> Tensor:
        """Compute the embeddings of texts, [N, D]; see ``Embedder.encode``.

        Args:
            texts: list of N texts.
            rho: target keep ratio in (0, 1]; None = that of the model.
            batch_size: texts per forward pass, >= 1.
            show_progress: show a progress bar.

        Raises:
            ConfigError: an argument cannot be used.
        """
        return self.embedder.encode(texts, rho, batch_size, show_progress)

    def kept_tokens(self, text: str, rho: float | None = None) -> KeptTokens:
        """Return the tokens of a text and through how many gates each of them went; see ``Embedder.kept_tokens``."""
        return self.embedder.kept_tokens(text, rho)

    def save_pretrained(self, folder: str | Path, *, details: str = "") -> None:
        """Write a model folder for ``Embedder`` and sentence-transformers; see ``Embedder.save_pretrained``.

        Args:
            folder: new or empty, or a folder of a retained model, which is replaced.
            details: further sections of the model card, in Markdown.

        Raises:
            DataError: the folder holds other files.
            ConfigError: the policy cannot be saved.
        """
        self.embedder.save_pretrained(folder, details=details)
