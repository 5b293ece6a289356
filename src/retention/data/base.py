"""Base class of all data modules: tokenizer, encoded splits in memory, loaders with batches of similar length."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytorch_lightning as pl
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from retention.data.batching import ShuffledBuckets, SortedBatches
from retention.data.encoded_split import EncodedSplit, encode_split
from retention.data.encoding import check_tokenizer, tokenizer_digest
from retention.data.loading import Collate, ResumableLoader, make_loader
from retention.data.settings import DataSettings
from retention.data.splits import SPLITS, Split
from retention.errors import DataError

_log = logging.getLogger(__name__)

_STAGES: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class RetentionData(pl.LightningDataModule, ABC):
    """Data of a task: attach a tokenizer, call ``setup`` for a stage, use its loaders.

    A subclass says how its documents are read (``read``), turned into token rows (``encode``) and padded
    (``collator``); this class loads the splits of a stage, caches, orders and counts them.
    """

    # Part of the cache key: raise it when `encode` of a class changes, so that rows encoded the old way are not reused.
    encoding_version: ClassVar[int] = 2
    # Documents per call of `encode` and per step of the progress bar; lower it in a class whose documents give many
    # rows or take long.
    encoding_batch: ClassVar[int] = 1000

    def __init__(self, settings: DataSettings) -> None:
        """Keep the settings; no data is read before ``setup``.

        Args:
            settings: settings that all data modules share.
        """
        super().__init__()
        self.settings = settings
        self.name = settings.name
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._splits: dict[Split, EncodedSplit] = {}
        self._documents: dict[Split, Dataset] = {}  # of the evaluated splits
        self._train_loader: ResumableLoader | None = None
        self._train_position: dict[str, int] | None = None  # of a checkpoint, for the next training loader

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the data itself: copies of a model whose head calls functions of the data share it."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave the trainer and the running loader out of pickles."""
        return {**self.__dict__, "trainer": None, "_train_loader": None}

    @abstractmethod
    def read(self, splits: Sequence[Split]) -> dict[Split, Dataset]:
        """Read and check the documents of the requested splits, and no others.

        Returns:
            Rows per requested split, with at least the column ``text``, the document as a person reads it.

        Raises:
            DataError: something cannot be read or used; the message names the file, the row and the remedy.
        """

    @abstractmethod
    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Turn documents (columns of ``read``, with their row numbers) into token rows.

        Returns:
            Columns ``input_ids``, ``protected_mask``, ``length`` and ``truncated`` (see ``encoding.encode_texts``),
            ``index`` (row number in its split; left out where a document gives several rows, which are numbered
            afterwards), and the labels of the task.
        """

    def encoding_settings(self) -> tuple[object, ...]:
        """Return the settings ``encode`` depends on besides tokenizer and ``max_length``; part of the cache key."""
        return ()

    @abstractmethod
    def collator(self) -> Collate:
        """Return the function that pads encoded rows into a batch (picklable, for loader processes)."""

    @staticmethod
    def build_tokenizer() -> PreTrainedTokenizerFast | None:
        """Return a tokenizer that belongs to the task, for encoders without one; None if there is none."""
        return None

    def data_files(self) -> list[Path]:
        """Return the existing local files that rows are read from, of every split; by default none."""
        return []

    def length_limit(self) -> str:
        """Return the setting that limits the length of documents, for warnings."""
        return f"max_length={self.settings.max_length}"

    def source_name(self) -> str:
        """Return the description of the rows for records and tables."""
        return self.settings.source_note

    def provenance(self) -> str:
        """Return the kind of the rows for records, see ``DataSettings.provenance``."""
        return self.settings.provenance

    def count_truncated(self, encoded: EncodedSplit) -> tuple[int, int]:
        """Count the truncated documents of a split, and all of its documents."""
        return encoded.truncated, len(encoded.rows)

    def head(self) -> dict[str, Any]:
        """Return the constructor arguments of the task's head that depend on the data."""
        return {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the attached tokenizer."""
        if self._tokenizer is None:
            raise RuntimeError(f"{self.name}: call attach(tokenizer) before setup()")
        return self._tokenizer

    def attach(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Set the tokenizer; splits encoded with another one are discarded.

        Raises:
            DataError: the tokenizer adds no special tokens, cannot pad, or is not fast.
        """
        check_tokenizer(tokenizer, self.settings.max_length)
        self._tokenizer = tokenizer
        self._splits = {}
        self._documents = {}

    def setup(self, stage: str) -> None:
        """Read and encode the splits of ``stage`` (fit, validate or test) that are not loaded yet.

        Raises:
            DataError: see ``read``.
        """
        if stage not in _STAGES:
            raise ValueError(f"stage must be one of {', '.join(_STAGES)}, got {stage!r}")
        _ = self.tokenizer  # fail before reading, not after
        missing = [split for split in _STAGES[stage] if split not in self._splits]
        for split, documents in self.read(missing).items() if missing else ():
            self._splits[split] = self._encode_split(split, documents)
            if split != "train":
                self._documents[split] = documents

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of batches of similar length, in an order given by (seed, epoch)."""
        rank, world_size = self._rank_and_world_size()
        split, size = self._split("train"), self.settings.batch_size
        order = ShuffledBuckets(split.lengths, size, seed=self.settings.seed, rank=rank, world_size=world_size)
        loader = self._loader(split, order)
        if isinstance(loader, ResumableLoader):
            self._train_loader = loader
            if self._train_position is not None:
                loader.load_state_dict(self._train_position)
        self._train_position = None
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position of training in its batches; the trainer stores it in checkpoints."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the training loader continue after the batches that a checkpoint has seen.

        The trainer restores the state of loaders too late if the loaders are needed for the number of training steps.
        It restores that of data modules before anything asks for a loader; with a sharded model, after the optimizer
        was built, whose schedule has asked for the number of steps.
        """
        self._train_position = state_dict.get("train")
        if self._train_loader is not None and self._train_position is not None:
            self._train_loader.load_state_dict(self._train_position)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of every validation row once, longest first."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader of every test row once, longest first."""
        return self._evaluation_loader("test")

    def example(self, index: int) -> str:
        """Return the text of the test document with this row number (``index`` of a batch).

        Raises:
            DataError: there is no such row.
        """
        if "test" not in self._documents:
            raise RuntimeError(f'{self.name}: call setup("test") before example()')
        count = len(self._documents["test"])
        if not 0 <= index < count:
            raise DataError(f"{self.name}: test document {index} does not exist, there are {count} (0..{count - 1})")
        return str(self._documents["test"][index]["text"])

    def texts(self, split: Split) -> list[str]:
        """Return the texts of an evaluated split, by row number.

        Args:
            split: ``val`` or ``test``, set up before.
        """
        if split not in self._documents:
            raise RuntimeError(f"{self.name}: the texts of the {split} split are not kept; call setup() for its stage")
        return [str(text) for text in self._documents[split]["text"]]

    def row_groups(self, split: Split) -> Mapping[str, Sequence[int]]:
        """Return groups of rows that are scored on their own: name -> row numbers; by default none.

        Args:
            split: ``val`` or ``test``, set up before.
        """
        return {}

    def describe(self) -> dict[str, Any]:
        """Describe the rows and count them, for the record of a run.

        For a split that was not set up, such as the training rows of a model that is only tested, the requested number
        is given; None = all.
        """
        if not self._splits:
            raise RuntimeError(f"{self.name}: call setup() before describe()")
        splits = {role: self._splits.get(role) for role in SPLITS}
        return {
            "name": self.settings.name,
            "source": self.source_name(),
            "provenance": self.provenance(),
            **{role: len(split.rows) if split else self.requested_size(role) for role, split in splits.items()},
            "max_length": self.settings.max_length,
            "truncated": {role: self.count_truncated(split)[0] if split else None for role, split in splits.items()},
        }

    @abstractmethod
    def requested_size(self, split: Split) -> int | None:
        """Return the number of documents requested of a split; None = all."""

    def fingerprint(self, split: Split) -> str:
        """Return a hash of the token rows of a split that was set up."""
        return str(self._split(split).rows._fingerprint)

    def _evaluation_loader(self, role: Split) -> DataLoader[Any]:
        rank, world_size = self._rank_and_world_size()
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

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _encode_split(self, split: Split, documents: Dataset) -> EncodedSplit:
        label = f"{self.settings.name}-{split}"
        key_parts: list[object] = [
            tokenizer_digest(self.tokenizer),
            self.settings.max_length,
            type(self).__qualname__,
            self.encoding_version,
            *self.encoding_settings(),
        ]
        encoded = encode_split(documents, self.encode, label=label, key_parts=key_parts, batch_size=self.encoding_batch)
        truncated, count = self.count_truncated(encoded)
        if truncated and self._rank_and_world_size()[0] == 0:
            message = "%s %s: %d of %d documents are longer than %s tokens and were truncated"
            _log.warning(message, self.settings.name, split, truncated, count, self.length_limit())
        return encoded
