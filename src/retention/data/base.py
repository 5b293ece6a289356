"""What all data modules share: tokenizer, splits in memory, loaders of similar lengths."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from retention.data.batching import ShuffledBuckets, SortedBatches
from retention.data.encoded_split import EncodedSplit, encode_split
from retention.data.encoding import check_tokenizer, tokenizer_digest
from retention.data.loading import Collate, make_loader
from retention.data.settings import DataSettings
from retention.data.splits import Split
from retention.errors import Checks, DataError

_log = logging.getLogger(__name__)

_STAGES: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
ROLES: tuple[Split, ...] = ("train", "val", "test")


class RetentionData(pl.LightningDataModule, ABC):
    """A benchmark's data: attach a tokenizer, ``setup`` a stage, take its loaders.

    A benchmark says how its documents are read (``read``), turned into token rows (``encode``) and padded
    (``collator``); loading what a stage needs, caching, ordering and counting are done here.
    """

    # Part of the cache key: raise it in a class whose `encode` changes, or rows encoded the old way are used again.
    encoding_version: ClassVar[int] = 1
    # Documents encoded between two writes to the cache and two steps of the progress bar; lower it in a class whose
    # documents give many rows or take long.
    encoding_batch: ClassVar[int] = 1000

    def __init__(self, settings: DataSettings) -> None:
        """Check the settings and, by ``check``, those of the benchmark.

        Args:
            settings: what every data module is told.

        Raises:
            ConfigError: all problems together.
        """
        self.settings = settings
        checks = Checks()
        settings.check(checks)
        self.check(checks)
        checks.finish()
        super().__init__()
        self.name = settings.name
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._splits: dict[Split, EncodedSplit] = {}
        self._documents: dict[Split, Dataset] = {}  # of the evaluated splits

    def check(self, checks: Checks) -> None:
        """Record what is wrong with the benchmark's own options; called while the module is made."""
        return

    @abstractmethod
    def read(self, wanted: Sequence[Split]) -> dict[Split, Dataset]:
        """Read and check the documents of the wanted splits, and no others.

        Returns:
            Per wanted split, rows with at least ``text``, the document as a person reads it.

        Raises:
            DataError: something cannot be read or used; the message names the file, the row and the remedy.
        """

    @abstractmethod
    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Turn documents (columns of ``read``, with their row numbers) into token rows.

        Returns:
            Columns ``input_ids``, ``protected``, ``length`` and ``truncated`` (``encoding.encode_texts`` makes
            them), ``index`` (the row number in its split; left out where a document gives several rows, which are
            numbered afterwards), and the benchmark's labels.
        """

    def encoding_settings(self) -> tuple[object, ...]:
        """What ``encode`` depends on besides tokenizer, ``max_length`` and the documents; part of the cache key."""
        return ()

    @abstractmethod
    def collator(self) -> Collate:
        """The function that pads encoded rows into a batch (picklable, for loader processes)."""

    @staticmethod
    def build_tokenizer() -> PreTrainedTokenizerFast | None:
        """The benchmark's own tokenizer, for encoders that bring none; None if it has none either."""
        return None

    def length_limit(self) -> str:
        """The setting that longer documents are cut to, for the warning."""
        return f"max_length={self.settings.max_length}"

    def source_name(self) -> str:
        """What the rows are, as a reader of results should see it."""
        return self.settings.source_note

    def count_cut(self, encoded: EncodedSplit) -> tuple[int, int]:
        """How many documents of a split were cut, and of how many."""
        return encoded.truncated, len(encoded.rows)

    def head(self) -> dict[str, Any]:
        """What the task's LightningModule must know of the data, as constructor arguments."""
        return {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The attached tokenizer."""
        if self._tokenizer is None:
            raise RuntimeError(f"{self.name}: call attach(tokenizer) before setup()")
        return self._tokenizer

    def attach(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Use this tokenizer from now on; splits encoded with another one are forgotten.

        Raises:
            DataError: the tokenizer marks no special tokens, cannot pad, or is no fast one.
        """
        check_tokenizer(tokenizer, self.settings.max_length)
        self._tokenizer = tokenizer
        self._splits = {}
        self._documents = {}

    def setup(self, stage: str) -> None:
        """Read and encode what ``stage`` (fit, validate or test) needs and is not there yet.

        Raises:
            DataError: see ``read``.
        """
        if stage not in _STAGES:
            raise ValueError(f"stage must be one of {', '.join(_STAGES)}, got {stage!r}")
        _ = self.tokenizer  # fail before the reading, not after it
        missing = [split for split in _STAGES[stage] if split not in self._splits]
        for split, documents in self.read(missing).items() if missing else ():
            self._splits[split] = self._encode_split(split, documents)
            if split != "train":
                self._documents[split] = documents

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of similar length in an order given by (seed, epoch)."""
        rank, world_size = self._place()
        split, size = self._split("train"), self.settings.batch_size
        order = ShuffledBuckets(split.lengths, size, seed=self.settings.seed, rank=rank, world_size=world_size)
        return self._loader(split, order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every validation row once, longest first."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Every test row once, longest first."""
        return self._evaluation_loader("test")

    def example(self, index: int) -> str:
        """The text of the test document with this row number (``index`` of a batch).

        Raises:
            DataError: there is no such row.
        """
        if "test" not in self._documents:
            raise RuntimeError(f'{self.name}: call setup("test") before example()')
        count = len(self._documents["test"])
        if not 0 <= index < count:
            raise DataError(f"{self.name}: test document {index} does not exist, there are {count} (0..{count - 1})")
        return str(self._documents["test"][index]["text"])

    def describe(self) -> dict[str, Any]:
        """What the rows are and how many, for the run's record.

        Of a split that was not set up, as the training rows of a model that is only tested, the number asked for; None
        where that was all.
        """
        if not self._splits:
            raise RuntimeError(f"{self.name}: call setup() before describe()")
        splits = {role: self._splits.get(role) for role in ROLES}
        return {
            "name": self.settings.name,
            "source": self.source_name(),
            **{role: len(split.rows) if split else self.asked(role) for role, split in splits.items()},
            "max_length": self.settings.max_length,
            "truncated": {role: self.count_cut(split)[0] if split else None for role, split in splits.items()},
        }

    @abstractmethod
    def asked(self, split: Split) -> int | None:
        """Documents of a split that were asked for; None = all."""

    def fingerprint(self, split: Split) -> str:
        """A name for the token rows of a split that was set up; other rows have another one."""
        return str(self._split(split).rows._fingerprint)

    def _evaluation_loader(self, role: Split) -> DataLoader[Any]:
        rank, world_size = self._place()
        split, size = self._split(role), self.settings.eval_batch_size
        return self._loader(split, SortedBatches(split.lengths, size, rank=rank, world_size=world_size))

    def _loader(self, split: EncodedSplit, order: ShuffledBuckets | SortedBatches) -> DataLoader[Any]:
        return make_loader(
            split.rows,
            order,
            collate=self.collator(),
            num_workers=self.settings.num_workers,
            seed=self.settings.seed,
        )

    def _split(self, role: Split) -> EncodedSplit:
        if role not in self._splits:
            raise RuntimeError(f"{self.name}: the {role} split is not set up; call setup() for a stage that has it")
        return self._splits[role]

    def _place(self) -> tuple[int, int]:
        """This process's rank and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _encode_split(self, split: Split, documents: Dataset) -> EncodedSplit:
        label = f"{self.settings.name}-{split}"
        made_by: list[object] = [
            tokenizer_digest(self.tokenizer),
            self.settings.max_length,
            type(self).__qualname__,
            self.encoding_version,
            *self.encoding_settings(),
        ]
        encoded = encode_split(documents, self.encode, label=label, made_by=made_by, at_once=self.encoding_batch)
        cut, documents_there = self.count_cut(encoded)
        if cut and self._place()[0] == 0:
            message = "%s %s: %d of %d documents are longer than %s tokens and were cut"
            _log.warning(message, self.settings.name, split, cut, documents_there, self.length_limit())
        return encoded
