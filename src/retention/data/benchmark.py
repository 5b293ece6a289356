"""Base class of data sets that are read from a local folder or from the Hugging Face hub."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset

from retention.data.base import RetentionData
from retention.data.local_files import READERS
from retention.data.settings import DataSettings
from retention.data.sources import Source
from retention.data.splits import SPLITS, Split, SplitNames, SplitPlan


class BenchmarkData(RetentionData):
    """Base class: a subclass reads one split of its source (``load``); this class assigns documents to splits.

    Sizes and splits count documents: all token rows of a document are in the same split.

    Attributes:
        group_column: column of ``load``'s rows whose equal values must not be divided between training and validation
            rows or between folds (``SplitPlan``); None = each document alone.
    """

    group_column: ClassVar[str | None] = None

    def __init__(
        self,
        *,
        name: str,
        source_note: str,
        hub: Mapping[str, Any] | None,
        dir: str | None,
        max_length: int,
        splits: SplitNames,
        train_size: int | None,
        val_size: int | None,
        test_size: int | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        num_workers: int = 0,
        folds: int | None = None,
        provenance: str = "benchmark",
        local_note: str | None = None,
        local_provenance: str | None = None,
    ) -> None:
        """Check the configuration; no rows are read before ``setup``.

        Args:
            name: short name, used in messages and records.
            source_note: description of the rows of ``hub``, for records (``SST-2 (GLUE)``).
            hub: ``{path, name, revision}`` of the hub data set, or None.
            dir: local folder with the files of the splits; takes precedence over ``hub``.
            max_length: tokens per row, special tokens included; longer documents are truncated and counted.
            splits: source split per role, ``{train, val, test}``, or a list of them; val None = ``val_size`` documents
                held out of train, of several the first.
            train_size: documents to train on, drawn by ``seed``; None = all.
            val_size: documents to validate on, the same for every seed; None = all, if ``splits.val`` is given.
            test_size: documents to test on, the same for every seed; None = all.
            batch_size: rows per training batch and process.
            eval_batch_size: rows per validation and test batch and process.
            seed: draws the training documents and orders the training batches.
            num_workers: loader processes; 0 = load in the main process.
            folds: number of parts for cross-validation, tested in turn by the seeds, see ``SplitPlan``; None = none.
            provenance: kind of the rows of ``hub``, see ``DataSettings``.
            local_note: description of the files of ``dir``, for records; None = ``local files: <folder>``.
            local_provenance: kind of the files of ``dir``; None = not declared.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(
            DataSettings(
                name=name,
                source_note=source_note,
                max_length=max_length,
                batch_size=batch_size,
                eval_batch_size=eval_batch_size,
                num_workers=num_workers,
                seed=seed,
                provenance=provenance,
            )
        )
        self.source = Source(dir, hub, local_note, local_provenance)
        self.plan = SplitPlan(
            names=splits,
            train_size=train_size,
            val_size=val_size,
            test_size=test_size,
            seed=seed,
            folds=folds,
            group_column=self.group_column,
        )

    @abstractmethod
    def load(self, split: str) -> Dataset:
        """Load and check the documents of one split of the source.

        Raises:
            DataError: see ``read``.
        """

    def file_names(self, split: str) -> list[str]:
        """Return the names that local files can have which the rows of one split of the source are read from."""
        return [f"{split}{suffix}" for suffix in READERS]

    def data_files(self) -> list[Path]:
        """Return the existing files of ``dir`` that rows are read from; none for a hub data set."""
        if self.source.dir is None:
            return []
        folder = Path(self.source.dir).expanduser()
        splits = [name for role in SPLITS for name in self.plan.sources(role)]
        files = dict.fromkeys(folder / name for split in splits for name in self.file_names(split))
        return [file for file in files if file.is_file()]

    def requested_size(self, split: Split) -> int | None:
        """Return the number of documents requested of a split; None = all."""
        return {"train": self.plan.train_size, "val": self.plan.val_size, "test": self.plan.test_size}[split]

    def remarks(self) -> Sequence[str]:
        """Return changes made to the documents that a reader of results must know; added to the source in records."""
        return ()

    def source_name(self) -> str:
        """Return the description of the rows, with the remarks, for records and tables."""
        return "; ".join([self.source.describe(self.settings.source_note), *self.remarks()])

    def describe(self) -> dict[str, Any]:
        """Describe and count the rows, see ``RetentionData.describe``, with the number of folds if there are any."""
        folds = {} if self.plan.folds is None else {"folds": self.plan.folds}
        return {**super().describe(), **folds}

    def provenance(self) -> str:
        """Return the kind of the rows for records.

        Returns:
            One of ``settings.PROVENANCES``, or ``local`` for local files of undeclared kind. A benchmark with a limited
            number of training or test documents is a ``subset``.
        """
        is_local = self.source.dir is not None
        kind = self.source.local_provenance or "local" if is_local else self.settings.provenance
        is_limited = self.plan.train_size is not None or self.plan.test_size is not None
        return "subset" if kind == "benchmark" and is_limited else kind

    def read(self, splits: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the files or hub splits that the requested splits need, and check every row."""
        return self.plan.read(splits, self.load)
