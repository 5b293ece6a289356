"""Classification of texts that may belong to several classes."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.models.encoded import Batch
from retention.tasks.classification.head import ClassificationModule, rounded
from retention.tasks.classification.metrics import LabelSetF1
from retention.training.distillation import soft_decision_loss


class MultiLabelModule(ClassificationModule):
    """A set of labels per text: one yes-or-no decision per class, binary cross-entropy.

    A text gets every class with a probability above 1/2, and its most probable class in any case, since no text is
    without one. The decisions start at the probability of one class per text.

    Args:
        num_labels: C.
        settings: see ``ClassificationModule``.
    """

    def __init__(self, *, num_labels: int, **settings: Any) -> None:
        super().__init__(num_labels=num_labels, **settings)
        nn.init.constant_(cast(nn.Linear, self.head[1]).bias, -math.log(max(num_labels - 1, 1)))
        self.metrics = (LabelSetF1(),)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def chosen(self, logits: Tensor) -> Tensor:
        return chosen_classes(logits)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Summed over classes, mean over texts."""
        return F.binary_cross_entropy_with_logits(logits.float(), batch["labels"], reduction="sum") / len(logits)

    def distillation_loss(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return soft_decision_loss(logits, teacher, self.settings.distill.temperature).sum(-1).mean()

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.logsigmoid(logits.float()).masked_fill(~self.chosen(logits), 0.0).sum()

    def row_score(self, prediction: Any, label: Any) -> float:
        """F1 of the two sets of classes."""
        return 2.0 * len(set(prediction) & set(label)) / (len(prediction) + len(label))

    def collect(self, logits: Tensor, batch: Batch) -> dict[str, list[Any]]:
        self.last_predictions = self.chosen(logits)
        return {
            "index": batch["index"].tolist(),
            "prediction": [row.nonzero().flatten().tolist() for row in self.last_predictions],
            "label": [row.nonzero().flatten().tolist() for row in batch["labels"]],
            "probabilities": rounded(self.probabilities(logits)),
        }


def chosen_classes(logits: Tensor) -> Tensor:
    """[B, C] bool: classes with a probability above 1/2, and the most probable one."""
    return (logits > 0).scatter(-1, logits.argmax(-1, keepdim=True), torch.ones_like(logits, dtype=torch.bool))
