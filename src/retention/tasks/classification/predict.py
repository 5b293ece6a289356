"""Classify texts with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, cast

from torch import Tensor

from retention.callbacks.profile import build_profile
from retention.data.batching import Batch, EncodedRow, pad_inputs
from retention.data.encoding import encode_texts
from retention.errors import DataError
from retention.models.encoded import Encoded
from retention.records import write_atomic
from retention.records.columns import as_rows
from retention.report.token_heatmap import token_heatmap_html
from retention.tasks.classification.head import ClassificationHead
from retention.tasks.inference import RowResult, keep_ratio, run_rows
from retention.tasks.trained_model import TrainedModel, check_texts


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction for one text.

    Attributes:
        labels: predicted classes, most probable first; one class, or at least one for a multi-label task.
        probabilities: class -> probability in [0, 1]; they sum to 1 unless the task is multi-label.
        tokens: the text as the encoder reads it, with special tokens, truncated to the model's maximum length.
        truncated: True if the text, with its passage, is longer than what was read.
        depth: for each token the number of gates that kept it, 0 .. ``gates``.
        gates: number of gated layers.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]
    tokens: tuple[str, ...]
    truncated: bool
    depth: tuple[int, ...]
    gates: int

    @property
    def keep_ratio(self) -> float:
        """Return kept tokens / tokens, mean over the gated layers, in (0, 1]; 1 without gates."""
        return keep_ratio(self.depth, self.gates)


class Classifier(TrainedModel):
    """Trained model that assigns classes to texts."""

    example: ClassVar[str] = 'model.predict(["a gripping film"])[0].labels'

    def predict(
        self, texts: Iterable[str], *, passages: Iterable[str] | None = None, batch_size: int = 32
    ) -> list[Prediction]:
        """Classify texts, with real token removal.

        Args:
            texts: list of texts; also a NumPy array or a pandas Series.
            passages: a second text for each, for models trained on pairs (a clause and its surrounding text).
            batch_size: texts per forward pass, >= 1; texts of similar length are batched together.

        Returns:
            One prediction per text, in the order of ``texts``.

        Raises:
            ConfigError: ``texts`` is not a list of strings, or ``batch_size`` is below 1.
            DataError: a text is empty, or has no passage.
        """
        texts = check_texts(texts, "text")
        if passages is not None:
            passages = check_texts(passages, "passage")
            if len(passages) != len(texts):
                raise DataError(f"{len(passages)} passages for {len(texts)} texts; give one for each")
        head = cast(ClassificationHead, self.model.head)

        def read(logits: Tensor, encoded: Encoded, batch: Batch) -> list[tuple[list[float], list[bool]]]:
            return list(zip(head.probabilities(logits).tolist(), head.predicted_classes(logits).tolist(), strict=True))

        rows = as_rows(self.encoded_rows(texts, passages)) if texts else []
        results = run_rows(self.model, rows, self._collate, batch_size, read)
        return [self._prediction(row, result) for row, result in zip(rows, results, strict=True)]

    def encoded_rows(self, texts: list[str], passages: list[str] | None) -> dict[str, list[Any]]:
        """Tokenize texts, with a passage for each or none, as in training."""
        return encode_texts(self.tokenizer, texts, self.max_length, passages)

    def _collate(self, rows: Sequence[EncodedRow]) -> Batch:
        """Pad rows without labels."""
        return pad_inputs(rows, cast(int, self.tokenizer.pad_token_id))

    def save_heatmap(self, texts: Iterable[str], path: str | Path, *, title: str = "Kept tokens") -> list[Prediction]:
        """Classify texts and write an HTML page that shows through how many layers each token was kept.

        Args:
            texts: list of texts, not empty.
            path: HTML file to write.
            title: heading of the page.

        Returns:
            The predictions.

        Raises:
            ConfigError: see ``predict``.
            DataError: see ``predict``; or there is no text.
        """
        predictions = self.predict(texts)
        if not predictions:
            raise DataError("there is no text to show; pass at least one")
        layers = self.model.gated_layers
        by_layer = {
            layer: fmean(sum(depth > gate for depth in each.depth) / len(each.depth) for each in predictions)
            for gate, layer in enumerate(layers)
        }
        examples = [
            {
                "tokens": each.tokens,
                "depth": each.depth,
                "prediction": [self.label_names.index(label) for label in each.labels],
            }
            for each in predictions
        ]
        profile = build_profile(
            mean=fmean(each.keep_ratio for each in predictions),
            by_layer=by_layer,
            rho=self.policy.rho,
            gated_layers=layers,
            label_names=self.label_names,
            examples=examples,
        )
        write_atomic(Path(path), token_heatmap_html(profile, title))
        return predictions

    def _prediction(self, row: dict[str, Any], result: RowResult) -> Prediction:
        probabilities, predicted = result.output
        by_name = dict(zip(self.label_names, probabilities, strict=True))
        labels = [name for name, chosen in zip(self.label_names, predicted, strict=True) if chosen]
        return Prediction(
            labels=tuple(sorted(labels, key=by_name.__getitem__, reverse=True)),
            probabilities=by_name,
            tokens=tuple(self.tokenizer.convert_ids_to_tokens(row["input_ids"])),
            truncated=row["truncated"],
            depth=result.depth,
            gates=len(self.model.gated_layers),
        )
