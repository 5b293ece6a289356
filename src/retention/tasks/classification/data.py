"""Load text classification data from a local folder or the hub: SST-2, IMDb, arXiv and other (text, class) rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.benchmark import BenchmarkData
from retention.data.splits import Split
from retention.data.table import require_column_names
from retention.tasks.classification.labelled_text import LABELS_FILE, LabelledTextData, read_label_names
from retention.tasks.classification.sentiment_groups import SENTIMENT_CLASSES, sentiment_groups


class TextClassificationData(LabelledTextData, BenchmarkData):
    """Documents with one class each. A new data set of this kind needs a yaml file and no code.

    A local folder holds ``<split>.parquet``, ``.csv`` or ``.jsonl``; a file ``labels.json`` (a list of class names)
    there takes precedence over ``label_names``. With a trained model, the labels of the rows are matched by name.
    """

    def __init__(self, *, text_column: str, label_column: str, **settings: Any) -> None:
        """Check the configuration; nothing but ``labels.json`` is read before ``setup``.

        Args:
            text_column: column with the document.
            label_column: column with the class, 0 .. len(label_names) - 1 or one of the names.
            settings: see ``LabelledTextData`` and ``BenchmarkData``.

        Raises:
            ConfigError: an argument is out of range.
            DataError: ``labels.json`` is no list of class names.
        """
        super().__init__(**settings)
        self._columns = {"text_column": text_column, "label_column": label_column}
        require_column_names(self._columns)
        self.label_names = read_label_names(self.source.dir) or self.label_names
        self._row_label_names = self.label_names  # in the order of the rows, whatever the order of a trained model

    def load(self, split: str) -> Dataset:
        """Load the documents of one split of the source: ``text`` and ``label``."""
        table = self.source.read(split, self._columns)
        texts = table.texts(self._columns["text_column"])
        labels = table.labels(self._columns["label_column"], self._row_label_names)
        classes = [self.label_names.index(name) for name in self._row_label_names]
        return Dataset.from_dict({"text": texts, "label": [classes[label] for label in labels]})

    def file_names(self, split: str) -> list[str]:
        """Return the names of files of a split, and that of the class names."""
        return [*super().file_names(split), LABELS_FILE]

    def row_groups(self, split: Split) -> Mapping[str, Sequence[int]]:
        """Return the rows with a negation or a contrast, if the classes are ``negative`` and ``positive``."""
        if frozenset(self.label_names) != SENTIMENT_CLASSES:
            return {}
        return sentiment_groups(self.texts(split))
