"""Extractive summarization: articles as marked sentences, and which of them make the best extract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retention.data.batching import Batch, Row, pad_inputs, whole_numbers
from retention.data.encoding import encode_sentences
from retention.data.loading import Collate
from retention.data.splits import require_count
from retention.errors import Checks, DataError
from retention.tasks.summarization.articles import ArticleData
from retention.tasks.summarization.oracle import oracle_sentences
from retention.tasks.summarization.sentences import article_sentences, split_sentences


@dataclass(frozen=True)
class SummarizationCollate:
    """Pads articles of S sentences at most.

    Adds ``markers`` [B, S] long (place of each sentence's marker; 0 where there is no sentence), ``sentence_mask``
    [B, S] bool, ``targets`` [B, S] float (1 = in the oracle's extract), ``spans`` [B, N] long (see ``sentence_spans``),
    ``index`` [B] long, and, as lists of strings,
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
        width = batch["input_ids"].shape[1]
        batch["spans"] = torch.stack([sentence_spans(row["markers"], len(row["input_ids"]), width) for row in rows])
        batch["index"] = whole_numbers(rows, "index")
        batch["sentences"] = [row["sentences"] for row in rows]
        batch["abstract"] = [row["abstract"] for row in rows]
        return batch


class SummarizationData(ArticleData):
    """Articles with abstracts.

    An article becomes ``[CLS] sentence [CLS] sentence ... [SEP]``: each sentence is scored by the state of the marker
    before it (Liu and Lapata 2019). Markers are protected, so they are never removed and count towards the budget.
    Longer articles are cut at ``max_length`` tokens; what lies behind can be neither chosen nor an oracle's choice.
    """

    encoding_batch: ClassVar[int] = 20  # the oracle takes a while; progress should show

    def __init__(self, *, oracle_limit: int | None = None, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            oracle_limit: most sentences in the oracle's extract; None = until ROUGE falls.
            settings: see ``ArticleData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self._oracle_limit = oracle_limit
        super().__init__(**settings)

    def check(self, checks: Checks) -> None:
        require_count(checks, "oracle_limit", self._oracle_limit, optional=True)
        super().check(checks)

    def attach(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Use this tokenizer from now on.

        Raises:
            DataError: see ``RetentionData``; or it has no token that could mark a sentence.
        """
        super().attach(tokenizer)
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise DataError(f"tokenizer {name}: has no [CLS] and [SEP] to mark sentences with; choose another backbone")

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


def sentence_spans(markers: Sequence[int], length: int, width: int) -> Tensor:
    """For each of ``width`` places, where its unit begins, [width] long.

    A sentence without its marker is one unit; markers, the last token and padding are one each.

    Args:
        markers: places of the markers, ascending.
        length: tokens of the article.
        width: of the batch.
    """
    spans = torch.arange(width)
    for marker, end in zip(markers, [*markers[1:], length - 1], strict=True):
        spans[marker + 1 : end] = marker + 1
    return spans
