"""Sequence classification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import Checks
from retention.models.encoded import Batch, Encoded
from retention.tasks.classification.metrics import Accuracy, MacroF1
from retention.training.distillation import soft_target_loss
from retention.training.module import RetentionModule

POOLINGS = ("cls", "mean", "attention", "depth")
PROTECT = ("special", "nothing")


class ClassificationModule(RetentionModule):
    """One label per text: pooled state, dropout, linear layer, cross-entropy.

    Args:
        num_labels: C.
        pooling: ``cls`` = state of the first token; ``mean`` = mean of the tokens left, weighed by their gates;
            ``attention`` = the same mean, weighed by a learned score of each state as well (it starts as ``mean``);
            ``depth`` = the same mean, weighed by how much of the encoder each token went through, so that the many
            states that left early do not drown the few that were worked on. Of a dense model it is ``mean``.
        dropout: before the linear layer, in [0, 1).
        protect: ``special`` = special tokens are never removed, and the budget pays for them; ``nothing`` = they
            compete like all others, which a head that reads a mean can afford. In a sentence of 25 tokens, at 10 %, two
            special tokens are most of the budget.
        others: see ``RetentionModule``.

    Raises:
        ConfigError: a setting is out of range, or the token that the head reads would not be protected.
    """

    @staticmethod
    def check_settings(*, pooling: str = "cls", dropout: float = 0.1, protect: str = "special") -> None:
        """Raise ``ConfigError`` with every setting of the head that is out of range."""
        checks = Checks()
        known = checks.require(protect in PROTECT, "protect", f"must be one of {', '.join(PROTECT)}, got {protect!r}")
        message = "must be special with pooling=cls: the head reads a special token; choose another pooling"
        checks.require(not known or protect == "special" or pooling != "cls", "protect", message)
        checks.require(pooling in POOLINGS, "pooling", f"must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        checks.require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")
        checks.finish()

    def __init__(
        self,
        *,
        num_labels: int,
        pooling: str = "cls",
        dropout: float = 0.1,
        protect: str = "special",
        **shared: Any,
    ) -> None:
        self.check_settings(pooling=pooling, dropout=dropout, protect=protect)
        super().__init__(**shared)
        self.pooling = pooling
        self.protect = protect
        self.focus = nn.Linear(self.shape.hidden_size, 1, bias=False) if pooling == "attention" else None
        if self.focus is not None:
            nn.init.zeros_(self.focus.weight)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.shape.hidden_size, num_labels))
        self.metrics: tuple[Any, ...] = (Accuracy(), MacroF1())

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[B, C]."""
        logits: Tensor = self.head(self.pooled(encoded))
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class, [B, C] float32; of a multi-label task, each on its own."""
        return logits.float().softmax(-1)

    def chosen(self, logits: Tensor) -> Tensor:
        """The classes that are answered, [B, C] bool."""
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, value=True)

    def protected(self, batch: Batch) -> Tensor:
        marked = super().protected(batch)
        return marked if self.protect == "special" else torch.zeros_like(marked)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits.float(), batch["labels"])

    def distillation_loss(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return soft_target_loss(logits, teacher, self.settings.distill.temperature)

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.log_softmax(logits.float(), -1).amax(-1).sum()

    def collect(self, logits: Tensor, batch: Batch) -> dict[str, list[Any]]:
        self.last_predictions = logits.argmax(-1)
        rows = {"index": batch["index"], "prediction": self.last_predictions, "label": batch["labels"]}
        told = {name: values.tolist() for name, values in rows.items()}
        return {**told, "probabilities": rounded(self.probabilities(logits))}

    def answers(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """``index``, ``prediction``, ``label``, ``probabilities`` and ``score`` (see ``row_score``) of each text."""
        return [
            {**answer, "score": self.row_score(answer["prediction"], answer["label"])}
            for answer in super().answers(rows)
        ]

    def row_score(self, prediction: Any, label: Any) -> float:
        """1 where the class is right, 0 where it is not."""
        return float(prediction == label)

    def score(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        guesses, labels = rows["prediction"], rows["label"]
        parts = [metric.compute(predictions=guesses, references=labels) for metric in self.metrics]
        return {name: value for part in parts for name, value in part.items()}

    def pooled(self, encoded: Encoded) -> Tensor:
        """[B, D]."""
        states = encoded.hidden_states
        if self.pooling == "cls":
            return states[:, 0]
        weights = (self.depth_weighted(encoded) if self.pooling == "depth" else encoded).weights.unsqueeze(-1)
        if self.focus is not None:
            scores = self.focus(states).float().masked_fill(weights == 0, -torch.inf)
            weights = weights * (scores - scores.amax(1, keepdim=True)).exp()
        return (weights.to(states.dtype) * states).sum(1) / weights.sum(1).clamp_min(1e-6)


def rounded(values: Tensor) -> list[Any]:
    """Values as nested lists, to six decimals: what files of predictions hold."""
    found: list[Any] = values.cpu().double().round(decimals=6).tolist()
    return found
