"""Provide the head that tags every token."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from entity_tagging.data import IGNORED
from entity_tagging.metrics import entity_f1
from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head, encoder_shape


class TaggingHead(Head):
    """One tag per word, read from the state of its first token.

    With ``dropped=forward`` (the default) removed tokens are tagged from the last state they had. With ``dropped=cut``
    they have no state: all their tags are equally likely.

    Args:
        encoder: Hugging Face encoder, for its hidden size.
        tag_names: tags in label order, from the data module.
        dropout: before the linear layer, in [0, 1).
    """

    fixed_width: ClassVar[bool] = False  # logits are as wide as the longest sentence of the batch

    @staticmethod
    def check_settings(*, dropout: float = 0.1) -> None:
        """Raise ``ConfigError`` if the dropout is out of range."""
        require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")

    def __init__(self, *, encoder: nn.Module, tag_names: Sequence[str], dropout: float = 0.1) -> None:
        """Build the linear layer."""
        super().__init__()
        self.tag_names = tuple(tag_names)
        hidden_size = encoder_shape(encoder).hidden_size
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden_size, len(self.tag_names)))

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute tag logits at the original positions, [B, T, C]."""
        kept = self.output(encoded.hidden_states).float()
        by_position = kept.new_zeros(*batch["input_ids"].shape, kept.shape[-1])
        return by_position.scatter(1, encoded.positions.unsqueeze(-1).expand_as(kept), kept)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the cross-entropy of the tagged tokens."""
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute temperature^2 KL(teacher || student) of the tagged tokens."""
        tagged = batch["labels"] != IGNORED
        student = F.log_softmax(logits[tagged] / temperature, -1)
        teacher = F.log_softmax(teacher_logits[tagged] / temperature, -1)
        return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the predicted tags, summed over the batch."""
        return F.log_softmax(logits, -1).amax(-1)[batch["labels"] != IGNORED].sum()

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return the predicted and the labelled tags of each sentence, one per word."""
        predicted, labels = logits.argmax(-1), batch["labels"]
        return {
            "index": batch["index"].tolist(),
            "prediction": [self._names(row[label != IGNORED]) for row, label in zip(predicted, labels, strict=True)],
            "label": [self._names(label[label != IGNORED]) for label in labels],
        }

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute the F1 of whole entities, and the accuracy of tags."""
        pairs = [
            pair
            for predicted, tags in zip(rows["prediction"], rows["label"], strict=True)
            for pair in zip(predicted, tags, strict=True)
        ]
        accuracy = sum(predicted == tag for predicted, tag in pairs) / max(len(pairs), 1)
        return {"entity_f1": entity_f1(rows["prediction"], rows["label"]), "tag_accuracy": accuracy}

    def _names(self, tags: Tensor) -> list[Any]:
        return [self.tag_names[tag] for tag in tags.tolist()]
