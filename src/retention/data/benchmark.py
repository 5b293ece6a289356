"""Data sets that are read: from a local folder, or from the Hugging Face hub."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.base import RetentionData
from retention.data.settings import DataSettings
from retention.data.sources import Source
from retention.data.splits import Split, SplitPlan
from retention.errors import Checks


class BenchmarkData(RetentionData):
    """Base: a benchmark says how one split of its source is read (``load``); which rows go where is decided here.

    Sizes and splits count documents: whatever a benchmark makes of a document, it is on one side only.
    """

    def __init__(
        self,
        *,
        name: str,
        source_note: str,
        hub: Mapping[str, Any] | None,
        dir: str | None,
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
        """Check the configuration; before ``setup`` no rows are read.

        Args:
            name: short name, used in messages and records.
            source_note: what the rows of ``hub`` are, for records (``SST-2 (GLUE)``).
            hub: ``{path, name, revision}`` of the hub data set, or None.
            dir: local folder with the files of the splits; goes before ``hub``.
            max_length: tokens per row, special ones included; longer documents are cut and counted.
            splits: source split per role, ``{train, val, test}``; val None = ``val_size`` documents held out of train.
            train_size: documents to train on, drawn by ``seed``; None = all.
            val_size: documents to validate on, the same for every seed; None = all, if ``splits.val`` is given.
            test_size: documents to test on, the same for every seed; None = all.
            batch_size: rows per training batch and process.
            eval_batch_size: rows per validation and test batch and process.
            seed: draws the training documents and orders the training batches.
            num_workers: loader processes; 0 = load in the main one.
            local_note: what the files of ``dir`` are, for records; None = ``local files: <folder>``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self.source = Source(dir, hub, local_note)
        self.plan = SplitPlan(names=splits, train_size=train_size, val_size=val_size, test_size=test_size, seed=seed)
        settings = DataSettings(
            name=name,
            source_note=source_note,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        super().__init__(settings)

    @abstractmethod
    def load(self, split: str) -> Dataset:
        """The checked documents of one split of the source.

        Raises:
            DataError: see ``read``.
        """

    def check(self, checks: Checks) -> None:
        super().check(checks)
        self.source.check(checks)
        self.plan.check(checks)

    def asked(self, split: Split) -> int | None:
        return {"train": self.plan.train_size, "val": self.plan.val_size, "test": self.plan.test_size}[split]

    def remarks(self) -> Sequence[str]:
        """What was done to the documents that a reader of results has to know; added to the source in records."""
        return ()

    def source_name(self) -> str:
        return "; ".join([self.source.called(self.settings.source_note), *self.remarks()])

    def read(self, wanted: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the files or hub splits that ``wanted`` needs and check every row of them."""
        return self.plan.read(wanted, self.load)
