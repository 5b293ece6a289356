"""Provide the head for sequences that may belong to several classes."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns
from retention.models.soft_targets import binary_soft_target_losses
from retention.tasks.classification.calibration import label_set_scores
from retention.tasks.classification.head import ClassificationHead, rounded
from retention.tasks.classification.metrics import LabelSetF1


class MultiLabelHead(ClassificationHead):
    """A set of labels per sequence: one binary decision per class, binary cross-entropy.

    Predicted are all classes with a probability above 1/2, and the most probable class in any case, since every
    sequence has at least one. Biases are initialized so that the expected number of classes per sequence is 1.

    Args:
        num_labels: C.
        settings: see ``ClassificationHead``.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1")

    def __init__(self, *, num_labels: int, **settings: Any) -> None:
        super().__init__(num_labels=num_labels, **settings)
        nn.init.constant_(cast(nn.Linear, self.output[1]).bias, -math.log(max(num_labels - 1, 1)))
        self.metrics = (LabelSetF1(),)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the probability of each class, [B, C] float32, independent of each other."""
        return logits.float().sigmoid()

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """Return True for classes with a probability above 1/2 and for the most probable one, [B, C] bool."""
        return (logits > 0).scatter(-1, logits.argmax(-1, keepdim=True), torch.ones_like(logits, dtype=torch.bool))

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the binary cross-entropy, summed over classes, mean over sequences."""
        return F.binary_cross_entropy_with_logits(logits.float(), batch["labels"], reduction="sum") / len(logits)

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the binary soft-target loss, summed over classes, mean over sequences."""
        return binary_soft_target_losses(logits, teacher_logits, temperature).sum(-1).mean()

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the predicted classes, summed over the batch."""
        return F.logsigmoid(logits.float()).masked_fill(~self.predicted_classes(logits), 0.0).sum()

    def predictions(self, logits: Tensor) -> Tensor:
        """Return True for the predicted classes, [B, C] bool."""
        return self.predicted_classes(logits)

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return ``index``, ``prediction`` and ``label`` (lists of classes), and ``probabilities``.

        And ``document``, if the batch has it.
        """
        documents = {"document": batch["document"].tolist()} if "document" in batch else {}
        return {
            "index": batch["index"].tolist(),
            **documents,
            "prediction": [row.nonzero().flatten().tolist() for row in self.predicted_classes(logits)],
            "label": [row.nonzero().flatten().tolist() for row in batch["labels"]],
            "probabilities": rounded(self.probabilities(logits)),
        }

    def probability_scores(self, rows: Columns) -> dict[str, float]:
        """Score the probabilities of all rows, see ``calibration.label_set_scores``."""
        return label_set_scores(rows["probabilities"], rows["prediction"], rows["label"])

    def row_score(self, prediction: Any, label: Any) -> float:
        """Return the F1 of the two sets of classes."""
        return 2.0 * len(set(prediction) & set(label)) / (len(prediction) + len(label))
