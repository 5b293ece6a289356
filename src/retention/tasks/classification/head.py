"""Provide the head for sequence classification."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head, encoder_shape
from retention.models.pooling import POOLINGS, check_pooling, check_protect, pool, protected_tokens, weighted_mean
from retention.models.soft_targets import soft_target_loss
from retention.tasks.classification.calibration import class_scores
from retention.tasks.classification.metrics import Accuracy, MacroF1

HEAD_POOLINGS = (*POOLINGS, "attention")


class ClassificationHead(Head):
    """One label per sequence: pooled state, dropout, linear layer, cross-entropy.

    Args:
        encoder: Hugging Face encoder, for its hidden size.
        num_labels: C.
        pooling: ``cls`` = state of the first token; ``mean`` = mean of the kept tokens, weighted by their gates;
            ``attention`` = the same mean, also weighted by a learned score of each state (starts as ``mean``);
            ``depth`` = the same mean, also weighted by the depth ratio of each token, see ``Encoded.depth_ratio``, so
            that the many states that left early do not dominate; ``survivors`` = mean of the tokens that passed every
            gate. ``depth`` and ``survivors`` of a dense model are ``mean``.
        dropout: before the linear layer, in [0, 1).
        protect: ``special`` = special tokens are never removed and count in the budget; ``nothing`` = they compete with
            all other tokens, which a head that reads a mean permits. In a sentence of 25 tokens at a keep ratio of
            10 %, two special tokens are most of the budget.

    Raises:
        ConfigError: a setting is out of range, or the token that the head reads would not be protected.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")  # those a run may be judged by

    @staticmethod
    def check_settings(*, pooling: str = "cls", dropout: float = 0.1, protect: str = "special") -> None:
        """Raise ``ConfigError`` if a setting is out of range or ``protect`` does not fit ``pooling``."""
        check_protect(protect, pooling)
        check_pooling(pooling, HEAD_POOLINGS)
        require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")

    def __init__(
        self,
        *,
        encoder: nn.Module,
        num_labels: int,
        pooling: str = "cls",
        dropout: float = 0.1,
        protect: str = "special",
    ) -> None:
        self.check_settings(pooling=pooling, dropout=dropout, protect=protect)
        super().__init__()
        self.pooling = pooling
        self.protect = protect
        hidden_size = encoder_shape(encoder).hidden_size
        self.token_scorer = nn.Linear(hidden_size, 1, bias=False) if pooling == "attention" else None
        if self.token_scorer is not None:
            nn.init.zeros_(self.token_scorer.weight)
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden_size, num_labels))
        self.metrics: tuple[Any, ...] = (Accuracy(), MacroF1())

    def pooled(self, encoded: Encoded) -> Tensor:
        """Compute the pooled state, [B, D]."""
        if self.token_scorer is None:
            return pool(encoded, self.pooling)
        states, weights = encoded.hidden_states, encoded.weights
        scores = self.token_scorer(states).float().squeeze(-1).masked_fill(weights == 0, -torch.inf)
        return weighted_mean(states, weights * (scores - scores.amax(1, keepdim=True)).exp())

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute class logits, [B, C]."""
        pooled, linear = self.pooled(encoded), cast(nn.Linear, self.output[1])
        logits: Tensor = self.output(pooled.to(linear.weight.dtype))  # weighted means are float32
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the probability of each class, [B, C] float32; independent of each other in a multi-label task."""
        return logits.float().softmax(-1)

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """Return True for the predicted classes, [B, C] bool."""
        return best_class(logits)

    def protected(self, batch: Batch) -> Tensor:
        """Return the tokens that are never removed, [B, T] bool: special tokens, or none."""
        return protected_tokens(super().protected(batch), self.protect)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the cross-entropy, a scalar."""
        return F.cross_entropy(logits.float(), batch["labels"])

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the soft-target loss of the class logits, a scalar."""
        return soft_target_loss(logits, teacher_logits, temperature)

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the predicted class, summed over the batch."""
        return F.log_softmax(logits.float(), -1).amax(-1).sum()

    def predictions(self, logits: Tensor) -> Tensor:
        """Return the predicted class, [B] long."""
        return logits.argmax(-1)

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return ``index``, ``prediction``, ``label`` and ``probabilities`` of each sequence."""
        return {
            "index": batch["index"].tolist(),
            "prediction": self.predictions(logits).tolist(),
            "label": batch["labels"].tolist(),
            "probabilities": rounded(self.probabilities(logits)),
        }

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute accuracy and macro F1, and the scores of the probabilities, see ``calibration.class_scores``."""
        predictions, labels = rows["prediction"], rows["label"]
        parts = [metric.compute(predictions=predictions, references=labels) for metric in self.metrics]
        scores = {name: value for part in parts for name, value in part.items()}
        return scores | (self.probability_scores(rows) if "probabilities" in rows else {})

    def probability_scores(self, rows: Columns) -> dict[str, float]:
        """Score the probabilities of all rows."""
        return class_scores(rows["probabilities"], rows["prediction"], rows["label"])

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return ``index``, ``prediction``, ``label``, ``probabilities`` and ``score`` of each sequence."""
        return [
            {**row, "score": self.row_score(row["prediction"], row["label"])} for row in super().prediction_rows(rows)
        ]

    def row_score(self, prediction: Any, label: Any) -> float:
        """Return 1 if the class is right, else 0."""
        return float(prediction == label)


def best_class(logits: Tensor) -> Tensor:
    """Return True for the class of the largest logit, [B, C] bool."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), value=True)


def rounded(values: Tensor) -> list[Any]:
    """Return the values as nested lists, rounded to six decimals as in prediction files."""
    nested: list[Any] = values.cpu().double().round(decimals=6).tolist()
    return nested
