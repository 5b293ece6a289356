"""Text classification from a local folder or the hub: SST-2, IMDb, arXiv and every set of (text, class) rows."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from retention.data.benchmark import BenchmarkData
from retention.data.table import check_columns
from retention.errors import Checks
from retention.tasks.classification.label_names import local_label_names
from retention.tasks.classification.labelled_text import LabelledTextData


class TextClassificationData(LabelledTextData, BenchmarkData):
    """Documents with one class each. A new data set of this kind is a yaml file, no code.

    A local folder holds ``<split>.parquet``, ``.csv`` or ``.jsonl``; a file ``labels.json`` (a list of class names)
    there goes before ``label_names``.
    """

    def __init__(self, *, text_column: str, label_column: str, **settings: Any) -> None:
        """Check the configuration; before ``setup`` nothing but ``labels.json`` is read.

        Args:
            text_column: column with the document.
            label_column: column with the class, 0 .. len(label_names) - 1.
            settings: see ``LabelledTextData`` and ``BenchmarkData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self._columns = {"text_column": text_column, "label_column": label_column}
        super().__init__(**settings)

    def check(self, checks: Checks) -> None:
        check_columns(checks, self._columns)
        found = local_label_names(self.source.dir, checks)
        self.label_names = self.label_names if found is None else found
        super().check(checks)

    def load(self, split: str) -> Dataset:
        table = self.source.read(split, self._columns)
        texts = table.texts(self._columns["text_column"])
        labels = table.labels(self._columns["label_column"], self.label_names)
        return Dataset.from_dict({"text": texts, "label": labels})
