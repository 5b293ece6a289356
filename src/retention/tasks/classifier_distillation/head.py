"""Provide the head of a fine-tuned classifier, trained towards its own answers before pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from retention.engine.adapters import adapter_for
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head
from retention.models.pretrained_classifier import take_encoder, with_encoder
from retention.models.soft_targets import binary_soft_target_losses, soft_target_loss
from retention.tasks.classification.head import best_class
from retention.tasks.classifier_distillation.agreement import (
    Logits,
    RowValues,
    class_agreement,
    class_divergence,
    label_agreement,
    label_divergence,
    order_agreement,
    root_mean_square_error,
)

MULTI_LABEL = "multi_label_classification"  # of transformers


@dataclass(frozen=True)
class LogitReading:
    """Loss, confidence and comparison of the logits of one kind of classifier.

    Attributes:
        loss: distillation loss of logits and the teacher's [B, C] at a temperature, a scalar.
        confidence: log-probability of the prediction, or the score, summed over the batch.
        agreement: agreement of each row in [0, 1] of logits with the unpruned model's.
        distance: name and function of the distance of the logits from the unpruned model's.
    """

    loss: Callable[[Tensor, Tensor, float], Tensor]
    confidence: Callable[[Tensor], Tensor]
    agreement: Callable[[Logits, Logits], RowValues]
    distance: tuple[str, Callable[[Logits, Logits], float]]


_ONE_CLASS = LogitReading(
    soft_target_loss,
    lambda logits: F.log_softmax(logits, -1).amax(-1).sum(),
    class_agreement,
    ("divergence", class_divergence),
)
_LABELS = LogitReading(
    lambda logits, targets, temperature: binary_soft_target_losses(logits, targets, temperature).sum(-1).mean(),
    lambda logits: F.logsigmoid(logits.abs()).sum(),
    label_agreement,
    ("divergence", label_divergence),
)
_SCORE = LogitReading(
    lambda logits, targets, _: F.mse_loss(logits.float(), targets.float()),
    lambda logits: logits.sum(),
    order_agreement,
    ("root_mean_square_error", root_mean_square_error),
)


class PretrainedClassifierHead(Head):
    """Head of a fine-tuned sequence classifier or cross-encoder, with its trained weights.

    Reads the classifier's class from ``config.json``: one class of several (softmax), labels that are independent of
    each other (``problem_type`` is ``multi_label_classification``), or a single score (one output, as of rerankers).
    The loss is the soft-target loss of Hinton et al. (2015, arXiv 1503.02531), for scores the mean squared error.

    Metrics on held-out texts: ``agreement`` with the unpruned classifier (same class; share of labels decided alike;
    share of pairs of texts ordered alike), and ``divergence`` in nats, or for scores ``root_mean_square_error``.

    Args:
        encoder: Hugging Face model whose class ends in ``ForSequenceClassification``; its encoder is taken out.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("agreement",)
    loads: ClassVar[str] = "classifier"
    starts_trained: ClassVar[bool] = True
    compares_with_teacher: ClassVar[bool] = True

    def __init__(self, *, encoder: nn.Module) -> None:
        super().__init__()
        take_encoder(encoder)
        self.classifier: Any = encoder
        config: Any = self.classifier.config
        self.label_names = tuple(str(config.id2label[index]) for index in range(int(config.num_labels)))
        labels = _LABELS if config.problem_type == MULTI_LABEL else _ONE_CLASS
        self._adapter = adapter_for(str(config.model_type))
        self._reading = _SCORE if len(self.label_names) == 1 else labels

    @property
    def gives_score(self) -> bool:
        """Return True if the classifier gives one score instead of classes."""
        return self._reading is _SCORE

    def whole_model(self, encoder: nn.Module) -> Any:
        """Return the Hugging Face classifier with this head and an encoder; it shares all weights."""
        return with_encoder(self.classifier, encoder)

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the logits, [B, C]."""
        states = encoded.hidden_states
        dtype = next((each.dtype for each in self.classifier.parameters()), states.dtype)
        inputs = self._adapter.inputs({"attention_mask": (encoded.weights > 0).long()})
        logits: Tensor = self.classifier(inputs_embeds=states.to(dtype), **inputs).logits
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute the probability of each class, [B, C] float32; of independent labels each by itself."""
        return logits.float().softmax(-1) if self._reading is _ONE_CLASS else logits.float().sigmoid()

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """Return True for the predicted classes, [B, C] bool; of independent labels those above 1/2."""
        if self._reading is not _ONE_CLASS:
            return logits > 0
        return best_class(logits)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return 0, a scalar: there are no labels."""
        return logits.float().sum() * 0.0

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the loss towards the unpruned classifier, a scalar; scores have no temperature."""
        return self._reading.loss(logits, teacher_logits, temperature)

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the prediction, or the score, summed over the batch."""
        return self._reading.confidence(logits.float())

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return ``index``, ``logits`` and the unpruned classifier's ``target`` logits of each text."""
        columns = {"index": batch["index"].tolist(), "logits": logits.float().tolist()}
        if "teacher_logits" in batch:  # not when a trained model classifies new texts
            columns["target"] = batch["teacher_logits"].float().tolist()
        return columns

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute the agreement with the unpruned classifier, and the distance of the logits from its logits."""
        name, distance = self._reading.distance
        agreement = self._reading.agreement(rows["logits"], rows["target"])
        return {"agreement": float(agreement.mean()), name: distance(rows["logits"], rows["target"])}

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return ``index``, ``logits``, ``target`` and ``score``, the agreement with the target, of each text."""
        agreement = self._reading.agreement(rows["logits"], rows["target"]).tolist()
        return [
            {**row, "score": round(score, 6)}
            for row, score in zip(super().prediction_rows(rows), agreement, strict=True)
        ]
