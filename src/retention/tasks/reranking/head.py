"""Provide the head of cross-encoders that score a query and a passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns
from retention.models.soft_targets import binary_soft_target_losses
from retention.tasks.classification.head import ClassificationHead

# Given the stage (val, test) and all rows, returns the metrics, the main metric first.
MetricsFn = Callable[[str, Mapping[str, Sequence[Any]]], dict[str, float]]
# Given the same, returns one JSON object per query with its ranking.
FormatFn = Callable[[str, Mapping[str, Sequence[Any]]], list[dict[str, Any]]]


class RerankingHead(ClassificationHead):
    """One relevance logit per pair of query and passage, binary cross-entropy against the relevance.

    Graded relevance is divided by the highest grade, so targets are in [0, 1] (Nogueira and Cho 2019, arXiv 1901.04085,
    for binary relevance). Query and special tokens are never removed.

    Args:
        encoder: Hugging Face encoder, for its hidden size.
        metrics_fn: computes nDCG@10 and MAP from the rows of a stage.
        format_fn: turns the scores of a stage into rankings; None = predictions are not written.
        pooling: see ``ClassificationHead``.
        dropout: before the linear layer, in [0, 1).

    Raises:
        ConfigError: a setting is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("ndcg10", "map")

    @staticmethod
    def check_settings(*, pooling: str = "cls", dropout: float = 0.1, protect: str = "special") -> None:
        """Raise ``ConfigError`` if a setting is out of range."""
        require(protect == "special", "protect", f"must be special: the query is never removed, got {protect!r}")
        ClassificationHead.check_settings(pooling=pooling, dropout=dropout)

    def __init__(
        self,
        *,
        encoder: nn.Module,
        metrics_fn: MetricsFn,
        format_fn: FormatFn | None = None,
        pooling: str = "cls",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(encoder=encoder, num_labels=1, pooling=pooling, dropout=dropout)
        self._metrics_fn = metrics_fn
        self._format_fn = format_fn

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the probability of relevance, [B, 1] float32."""
        return logits.float().sigmoid()

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """Return True for pairs with a probability above 1/2, [B, 1] bool."""
        return logits > 0

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the binary cross-entropy, mean over the pairs."""
        return F.binary_cross_entropy_with_logits(logits.float().squeeze(-1), batch["labels"])

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the binary soft-target loss, mean over the pairs."""
        return binary_soft_target_losses(logits, teacher_logits, temperature).mean()

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the more probable of relevant and irrelevant, summed over the batch."""
        return F.logsigmoid(logits.float().abs()).sum()

    def predictions(self, logits: Tensor) -> Tensor:
        """Return 1 for pairs that are relevant with a probability above 1/2, else 0, [B] long."""
        return self.predicted_classes(logits).squeeze(-1).long()

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return ``index``, ``query`` (two indices) and ``relevance_score``, the logit, of each pair."""
        return {
            "index": batch["index"].tolist(),
            "query": batch["query"].tolist(),
            "relevance_score": logits.float().squeeze(-1).tolist(),
        }

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute nDCG@10 and MAP, mean over queries."""
        return self._metrics_fn(stage, rows)

    def constant_baselines(self, rows: Columns) -> dict[str, float]:
        """Compute the metrics of the candidates in their order by BM25."""
        by_rank = {**rows, "relevance_score": [-position for _, position in rows["query"]]}
        return {f"bm25_{name}": value for name, value in self._metrics_fn("test", by_rank).items()}

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return the ranking of each query, with its nDCG@10 as ``score``."""
        return [] if self._format_fn is None else self._format_fn("test", rows)
