"""Use and save a pruned classifier."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, cast

from retention.engine import Retainer
from retention.errors import ConfigError, Problem
from retention.pretrained.text_rows import special_ids
from retention.pretrained.with_head import save_retained
from retention.tasks.classification.predict import Classifier, Prediction
from retention.tasks.classifier_distillation.data import ClassifierTexts
from retention.tasks.classifier_distillation.head import PretrainedClassifierHead


class PrunedClassifier(Classifier):
    """Classifier or cross-encoder that was fine-tuned elsewhere and pruned here."""

    example: ClassVar[str] = 'model.predict(["a text"])[0].labels'

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the classes in the order of the classifier's outputs."""
        return self._head.label_names

    @property
    def _head(self) -> PretrainedClassifierHead:
        return cast(PretrainedClassifierHead, self.model.head)

    def predict(
        self, texts: Iterable[str], *, passages: Iterable[str] | None = None, batch_size: int = 32
    ) -> list[Prediction]:
        """Classify texts or pairs of texts; see ``Classifier.predict``.

        Raises:
            ConfigError: the model gives a score and no classes; or see ``Classifier.predict``.
        """
        if self._head.gives_score:
            message = (
                "this model gives one score and no classes; write it to a folder with save_pretrained and load that "
                "with retention.pretrained.load_retained"
            )
            raise ConfigError([Problem("predict", message)])
        return super().predict(texts, passages=passages, batch_size=batch_size)

    def encoded_rows(self, texts: list[str], passages: list[str] | None) -> dict[str, list[Any]]:
        """Tokenize texts or pairs, as in training."""
        return cast(ClassifierTexts, self.data).token_rows(texts, passages)

    def save_pretrained(self, folder: str | Path, *, details: str = "") -> None:
        """Write the whole classifier with its policy, for ``retention.pretrained.load_retained``.

        Without removal, ``AutoModelForSequenceClassification`` loads the folder as well.

        Args:
            folder: new or empty, or a folder of a retained model, which is replaced.
            details: further sections of the model card, in Markdown.

        Raises:
            DataError: the folder holds other files.
            ConfigError: the policy cannot be saved.
        """
        model, retainer = self._head.whole_model(self.encoder), self.model.retainer
        whole = Retainer(
            model,
            self.policy,
            layers=retainer.layers,
            dropped=retainer.dropped,
            prune_at=retainer.prune_at,
            protected_ids=special_ids(self.tokenizer),
            protect_query=cast(ClassifierTexts, self.data).protect_first_text,
        )
        save_retained(folder, model, whole, self.tokenizer, details=details)
