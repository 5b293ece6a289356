"""Provide the head for embeddings of texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import require, require_number
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head, encoder_shape
from retention.models.pooling import check_pooling, check_protect, pool, protected_tokens
from retention.pretrained.sentence_files import EmbeddingSettings, write_settings
from retention.tasks.embedding.losses import cosine_loss, neighbor_loss, relational_loss
from retention.tasks.embedding.metrics import row_cosines, similarity_correlation
from retention.tasks.embedding.source import check_source_pooling, source_settings

_MAX_PROJECTIONS = 64


class EmbeddingHead(Head):
    """One vector per sequence: the pooled states. It has no weights and needs no labels, only a teacher.

    Distillation loss: ``cosine`` cosine_loss + ``relational`` relational_loss + ``neighbors`` neighbor_loss towards the
    teacher's embeddings. The distance of the pooled states themselves is ``distill.pooled_states``.

    Args:
        encoder: Hugging Face encoder; the sentence-transformers model that it was loaded from says how it is read.
        pooling: see ``retention.models.pooling.pool``. The teacher, which removes no tokens, gives the same for
            ``mean``, ``depth`` and ``survivors``; choose ``cls`` for models that are read by their first token.
        normalize: True to scale embeddings to length 1; None = as the model that the encoder was loaded from, False for
            a plain encoder. The losses do not depend on it.
        protect: see ``check_protect``.
        cosine: weight >= 0 of the cosine loss.
        relational: weight >= 0 of the loss on the similarities of all pairs in a batch.
        neighbors: weight >= 0 of the loss on each row's neighbors in a batch; its temperature is ``temperature``.
        temperature: > 0, of the neighbors' cosine similarities (``distill.temperature`` has no effect here).
        projections: random projections of the embedding that the saliency of tokens is estimated from, in [1, 64]; each
            costs one backward pass of the teacher.

    Raises:
        ConfigError: a setting is out of range, no loss has a weight, or ``pooling`` does not fit the model.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("cosine", "similarity_correlation")
    starts_trained: ClassVar[bool] = True
    compares_with_teacher: ClassVar[bool] = True
    loss_settings: ClassVar[tuple[str, ...]] = (
        "protect",
        "cosine",
        "relational",
        "neighbors",
        "temperature",
        "projections",
    )

    @staticmethod
    def check_settings(
        *,
        pooling: str = "mean",
        normalize: bool | None = None,
        protect: str = "special",
        cosine: float = 1.0,
        relational: float = 0.0,
        neighbors: float = 0.0,
        temperature: float = 0.05,
        projections: int = 1,
    ) -> None:
        """Raise ``ConfigError`` if a setting is out of range."""
        check_pooling(pooling)
        check_protect(protect, pooling)
        valid = normalize is None or isinstance(normalize, bool)
        require(valid, "normalize", f"must be true, false or null (as the model), got {normalize!r}")
        for key, weight in (("cosine", cosine), ("relational", relational), ("neighbors", neighbors)):
            require_number(key, weight, low=0)
        message = "at least one of cosine, relational and neighbors must be above 0; set cosine=1"
        require(cosine > 0 or relational > 0 or neighbors > 0, "cosine", message)
        require_number("temperature", temperature, above=0)
        require_number("projections", projections, low=1, high=_MAX_PROJECTIONS)

    def __init__(
        self,
        *,
        encoder: nn.Module,
        pooling: str = "mean",
        normalize: bool | None = None,
        protect: str = "special",
        cosine: float = 1.0,
        relational: float = 0.0,
        neighbors: float = 0.0,
        temperature: float = 0.05,
        projections: int = 1,
    ) -> None:
        weights: dict[str, Any] = {"cosine": cosine, "relational": relational, "neighbors": neighbors}
        estimate: dict[str, Any] = {"temperature": temperature, "projections": projections}
        self.check_settings(pooling=pooling, normalize=normalize, protect=protect, **weights, **estimate)
        super().__init__()
        self.source = source_settings(encoder)
        check_source_pooling(pooling, self.source)
        self.pooling = pooling
        self.normalize = self.source is not None and self.source.normalize if normalize is None else normalize
        self.dimension = encoder_shape(encoder).hidden_size
        self.protect = protect
        self.cosine = cosine
        self.relational = relational
        self.neighbors = neighbors
        self.temperature = temperature
        self.projections = projections

    def settings(self, max_length: int) -> EmbeddingSettings:
        """Return the settings of the model's folder.

        Args:
            max_length: tokens per text in training; the model keeps its own limit if that is larger.
        """
        source = EmbeddingSettings() if self.source is None else self.source
        limit = None if source.max_seq_length is None else max(max_length, source.max_seq_length)
        return replace(source, pooling=self.pooling, normalize=self.normalize, max_seq_length=limit)

    def write_files(self, folder: Path) -> None:
        """Write the settings of the model that the encoder was loaded from, where there is one."""
        if self.source is not None:
            write_settings(folder, self.source, self.dimension, retained=False)

    def pooled(self, encoded: Encoded) -> Tensor:
        """Compute the pooled states, [B, D]."""
        return pool(encoded, self.pooling)

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the embeddings, [B, D]."""
        pooled = self.pooled(encoded)
        return F.normalize(pooled, dim=-1) if self.normalize else pooled

    def protected(self, batch: Batch) -> Tensor:
        """Return the tokens that are never removed, [B, T] bool: special tokens, or none."""
        return protected_tokens(super().protected(batch), self.protect)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return 0, a scalar: there are no labels."""
        return logits.float().sum() * 0.0

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the weighted sum of the losses towards the teacher's embeddings, a scalar."""
        loss = self.task_loss(logits, batch)
        if self.cosine > 0:
            loss = loss + self.cosine * cosine_loss(logits, teacher_logits)
        if self.relational > 0:
            loss = loss + self.relational * relational_loss(logits, teacher_logits)
        if self.neighbors > 0:
            loss = loss + self.neighbors * neighbor_loss(logits, teacher_logits, self.temperature)
        return loss

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute random projections of the normalized embeddings, each summed over the batch, [projections].

        With signs +1 or -1 in equal shares, the mean of the squared gradient norms of a token estimates the squared
        Frobenius norm of the embedding's Jacobian in its state without bias (Hutchinson 1989). A text has the same
        signs in every epoch.
        """
        signs = torch.stack([_signs(row, self.projections, logits.shape[-1]) for row in batch["index"].tolist()], dim=1)
        return (signs.to(logits.device) * F.normalize(logits.float(), dim=-1)).sum((1, 2))

    @property
    def saliency_settings(self) -> str:
        """Return the number of projections that the saliency is estimated from."""
        return str(self.projections)

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return ``index``, ``embedding`` and the teacher's ``target`` of each sequence."""
        columns = {"index": batch["index"].tolist(), "embedding": logits.float().tolist()}
        if "teacher_logits" in batch:  # not when a trained model embeds new texts
            columns["target"] = batch["teacher_logits"].float().tolist()
        return columns

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute the mean cosine similarity to the teacher's embeddings, and the correlation of similarities."""
        embeddings, targets = rows["embedding"], rows["target"]
        return {
            "cosine": float(row_cosines(embeddings, targets).mean()),
            "similarity_correlation": similarity_correlation(embeddings, targets),
        }

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return ``index``, ``cosine`` to the teacher's embedding, and ``score`` = (1 + cosine) / 2 of each text."""
        cosines = row_cosines(rows["embedding"], rows["target"])
        return [
            {"index": index, "cosine": round(float(cosine), 6), "score": round(float(1.0 + cosine) / 2.0, 6)}
            for index, cosine in zip(rows["index"], cosines, strict=True)
        ]


def _signs(row: int, projections: int, width: int) -> Tensor:
    """Return random signs of a row, [projections, width] of +1 and -1."""
    generator = torch.Generator().manual_seed(row)
    return torch.randint(0, 2, (projections, width), generator=generator).float() * 2.0 - 1.0
