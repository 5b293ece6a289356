"""Extractive summarization: articles as marked sentences, and which of them make the best extract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from retention.data.base import RetentionData
from retention.data.batching import Batch, Row, pad_inputs, whole_numbers
from retention.data.encoding import encode_sentences
from retention.data.loading import Collate
from retention.data.oracle import oracle_sentences
from retention.data.sentences import article_sentences, split_sentences
from retention.data.settings import DataSettings
from retention.data.sources import Source
from retention.data.splits import Split, SplitPlan, require_count
from retention.errors import Checks, DataError


@dataclass(frozen=True)
class SummarizationCollate:
    """Pads articles of S sentences at most.

    Adds ``markers`` [B, S] long (place of each sentence's marker; 0 where there is no sentence), ``sentence_mask``
    [B, S] bool, ``targets`` [B, S] float (1 = in the oracle's extract), ``index`` [B] long, and, as lists of strings,
    ``sentences`` and ``abstract`` (one sentence per line) of each article.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Make one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        shape = (len(rows), max(len(row["markers"]) for row in rows))
        batch["markers"] = torch.zeros(shape, dtype=torch.long)
        batch["sentence_mask"] = torch.zeros(shape, dtype=torch.bool)
        batch["targets"] = torch.zeros(shape)
        for place, row in enumerate(rows):
            count = len(row["markers"])
            batch["markers"][place, :count] = torch.tensor(row["markers"])
            batch["sentence_mask"][place, :count] = True
            batch["targets"][place, row["oracle"]] = 1.0
        batch["index"] = whole_numbers(rows, "index")
        batch["sentences"] = [row["sentences"] for row in rows]
        batch["abstract"] = [row["abstract"] for row in rows]
        return batch


class SummarizationData(RetentionData):
    """Articles with abstracts.

    An article becomes ``[CLS] sentence [CLS] sentence ... [SEP]``: each sentence is scored by the state of the marker
    before it (Liu and Lapata 2019). Markers are protected, so they are never removed and count towards the budget.
    Longer articles are cut at ``max_length`` tokens; what lies behind can be neither chosen nor an oracle's choice.
    """

    encoding_batch: ClassVar[int] = 20  # the oracle takes a while; progress should show

    def __init__(
        self,
        *,
        name: str,
        source_note: str,
        hub: Mapping[str, Any] | None,
        dir: str | None,
        article_column: str,
        abstract_column: str,
        max_length: int,
        splits: Mapping[str, str | None],
        train_size: int | None,
        val_size: int | None,
        test_size: int | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        oracle_limit: int | None = None,
        num_workers: int = 0,
        local_note: str | None = None,
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            name: short name, used in messages and records.
            source_note: what the rows of ``hub`` are, for records.
            hub: ``{path, name, revision}`` of the hub data set, or None.
            dir: local folder with ``<split>.parquet``, ``.csv`` or ``.jsonl``; goes before ``hub``.
            article_column: column with the article.
            abstract_column: column with its abstract.
            max_length: tokens per article, markers included; longer articles are cut and counted.
            splits: source split per role, ``{train, val, test}``; val None = ``val_size`` rows held out of train.
            train_size: articles to train on, drawn by ``seed``; None = all.
            val_size: articles to validate on, the same for every seed; None = all, if ``splits.val`` is given.
            test_size: articles to test on, the same for every seed; None = all.
            batch_size: articles per training batch and process.
            eval_batch_size: articles per validation and test batch and process.
            seed: draws ``train_size`` articles and orders the training batches.
            oracle_limit: most sentences in the oracle's extract; None = until ROUGE falls.
            num_workers: loader processes; 0 = load in the main one.
            local_note: what the files of ``dir`` are, for records; None = ``local files: <folder>``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        checks = Checks()
        self._columns = {"article_column": article_column, "abstract_column": abstract_column}
        for key, column in self._columns.items():
            checks.require(isinstance(column, str) and bool(column), key, f"must be a column name, got {column!r}")
        require_count(checks, "oracle_limit", oracle_limit, optional=True)
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
        super().__init__(settings, checks)
        self._oracle_limit = oracle_limit

    def attach(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Use this tokenizer from now on.

        Raises:
            DataError: see ``RetentionData``; or it has no token that could mark a sentence.
        """
        super().attach(tokenizer)
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise DataError(f"tokenizer {name}: has no [CLS] and [SEP] to mark sentences with; choose another backbone")

    def read(self, wanted: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the files or hub splits that ``wanted`` needs and check every row of them."""
        return self._plan.read(wanted, self._load)

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Token rows with ``markers``, ``oracle`` (chosen sentences), ``sentences``, ``abstract`` and ``index``."""
        articles = [article_sentences(text) for text in documents["text"]]
        abstracts = [split_sentences(text) for text in documents["abstract"]]
        encoded = encode_sentences(self.tokenizer, articles, self.settings.max_length)
        seen = [sentences[: len(markers)] for sentences, markers in zip(articles, encoded["markers"], strict=True)]
        oracle = [
            oracle_sentences(sentences, abstract, self._oracle_limit)
            for sentences, abstract in zip(seen, abstracts, strict=True)
        ]
        texts: dict[str, list[Any]] = {"sentences": seen, "abstract": ["\n".join(abstract) for abstract in abstracts]}
        # arrays, because a batch of empty lists would not tell the cache that they are of whole numbers
        choices = [np.asarray(places, dtype=np.int64) for places in oracle]
        return {**encoded, **texts, "oracle": choices, "index": indices}

    def encoding_settings(self) -> tuple[object, ...]:
        return (self._oracle_limit,)

    def collator(self) -> Collate:
        """Pad with the tokenizer's padding token."""
        return SummarizationCollate(int(self.tokenizer.pad_token_id))

    def _load(self, split: str) -> Dataset:
        table = self._source.read(split, self._columns)
        articles, abstracts = (table.texts(column) for column in self._columns.values())
        return Dataset.from_dict({"text": articles, "abstract": abstracts})
