"""Text classification from a local folder or the hub: SST-2, IMDb, arXiv and every set of (text, class) rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.label_names import local_label_names
from retention.data.labelled_text import LabelledTextData
from retention.data.settings import DataSettings
from retention.data.sources import Source
from retention.data.splits import Split, SplitPlan
from retention.errors import Checks


class TextClassificationData(LabelledTextData):
    """Documents with one class each. A new data set of this kind is a yaml file, no code."""

    def __init__(
        self,
        *,
        name: str,
        source_note: str,
        hub: Mapping[str, Any] | None,
        dir: str | None,
        text_column: str,
        label_column: str,
        label_names: Sequence[str],
        max_length: int,
        splits: Mapping[str, str | None],
        train_size: int | None,
        val_size: int | None,
        test_size: int | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        num_workers: int = 0,
        local_note: str | None = None,
    ) -> None:
        """Check the configuration; before ``setup`` nothing but ``labels.json`` is read.

        Args:
            name: short name, used in messages and records.
            source_note: what the rows of ``hub`` are, for records (``SST-2 (GLUE)``).
            hub: ``{path, name, revision}`` of the hub data set, or None.
            dir: local folder with ``<split>.parquet``, ``.csv`` or ``.jsonl``; goes before ``hub``.
            text_column: column with the document.
            label_column: column with the class, 0 .. len(label_names) - 1.
            label_names: class names in label order; a file ``labels.json`` (a list of names) in ``dir`` goes before it.
            max_length: tokens per document, special ones included; longer documents are cut and counted.
            splits: source split per role, ``{train, val, test}``; val None = ``val_size`` rows held out of train.
            train_size: rows to train on, drawn by ``seed``; None = all.
            val_size: rows to validate on, the same for every seed; None = all, if ``splits.val`` is given.
            test_size: rows to test on, the same for every seed; None = all.
            batch_size: rows per training batch and process.
            eval_batch_size: rows per validation and test batch and process.
            seed: draws ``train_size`` rows and orders the training batches.
            num_workers: loader processes; 0 = load in the main one.
            local_note: what the files of ``dir`` are, for records; None = ``local files: <folder>``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        checks = Checks()
        for key, column in (("text_column", text_column), ("label_column", label_column)):
            checks.require(isinstance(column, str) and bool(column), key, f"must be a column name, got {column!r}")
        self._columns = {"text_column": text_column, "label_column": label_column}
        self._source = Source(dir, hub, local_note)
        self._source.check(checks)
        self._plan = SplitPlan(names=splits, train_size=train_size, val_size=val_size, test_size=test_size, seed=seed)
        self._plan.check(checks)
        settings = DataSettings(
            name=name,
            source_note=self._source.called(source_note),
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        local_names = local_label_names(dir, checks)
        names = label_names if local_names is None else local_names
        super().__init__(label_names=names, settings=settings, checks=checks)

    def read(self, wanted: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the files or hub splits that ``wanted`` needs and check every row of them."""
        return self._plan.read(wanted, self._load)

    def _load(self, split: str) -> Dataset:
        table = self._source.read(split, self._columns)
        texts = table.texts(self._columns["text_column"])
        labels = table.labels(self._columns["label_column"], self.label_names)
        return Dataset.from_dict({"text": texts, "label": labels})
