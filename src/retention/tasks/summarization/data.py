"""Load extractive summarization data: articles as marked sentences, the sentences of the best extract as targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.encoding import encode_sentences
from retention.data.loading import Collate
from retention.data.settings import require_count
from retention.errors import DataError
from retention.tasks.summarization.articles import ArticleData
from retention.tasks.summarization.oracle import oracle_sentences
from retention.tasks.summarization.sentences import article_sentences, split_sentences


@dataclass(frozen=True)
class SummarizationCollate:
    """Pad articles of at most S sentences.

    Adds ``markers`` [B, S] long (position of each sentence's marker; 0 where there is no sentence), ``sentence_mask``
    [B, S] bool, ``targets`` [B, S] float (1 = in the oracle summary), ``spans`` [B, N] long (see ``sentence_spans``),
    ``index`` [B] long, and, as lists, ``sentences`` and ``abstract`` (a string with one sentence per line).
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        shape = (len(rows), max(len(row["markers"]) for row in rows))
        batch["markers"] = torch.zeros(shape, dtype=torch.long)
        batch["sentence_mask"] = torch.zeros(shape, dtype=torch.bool)
        batch["targets"] = torch.zeros(shape)
        for i, row in enumerate(rows):
            count = len(row["markers"])
            batch["markers"][i, :count] = torch.tensor(row["markers"])
            batch["sentence_mask"][i, :count] = True
            batch["targets"][i, row["oracle"]] = 1.0
        width = batch["input_ids"].shape[1]
        batch["spans"] = torch.stack([sentence_spans(row["markers"], len(row["input_ids"]), width) for row in rows])
        batch["index"] = integer_column(rows, "index")
        batch["sentences"] = [row["sentences"] for row in rows]
        batch["abstract"] = [row["abstract"] for row in rows]
        return batch


class SummarizationData(ArticleData):
    """Articles with abstracts.

    An article becomes ``[CLS] sentence [CLS] sentence ... [SEP]``: each sentence is scored by the state of the marker
    before it (Liu and Lapata 2019). Markers are protected, so they are never removed and count towards the budget.
    Longer articles are truncated at ``max_length`` tokens; sentences after that cannot be selected, not even by the
    oracle.
    """

    encoding_batch: ClassVar[int] = 20  # the oracle is slow; the progress bar should move

    def __init__(self, *, oracle_limit: int | None = None, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            oracle_limit: most sentences in the oracle summary; None = until ROUGE no longer rises.
            settings: see ``ArticleData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        require_count("oracle_limit", oracle_limit, optional=True)
        self._oracle_limit = oracle_limit

    def attach(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Set the tokenizer.

        Raises:
            DataError: see ``RetentionData``; or it has no token to mark sentences with.
        """
        super().attach(tokenizer)
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise DataError(f"tokenizer {name}: has no [CLS] and [SEP] to mark sentences with; choose another backbone")

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return token rows with ``markers``, ``oracle`` (selected sentences), ``sentences`` and ``abstract``."""
        articles = [article_sentences(text) for text in documents["text"]]
        abstracts = [split_sentences(text) for text in documents["abstract"]]
        encoded = encode_sentences(self.tokenizer, articles, self.settings.max_length)
        included = [sentences[: len(markers)] for sentences, markers in zip(articles, encoded["markers"], strict=True)]
        oracle = [
            oracle_sentences(sentences, abstract, self._oracle_limit)
            for sentences, abstract in zip(included, abstracts, strict=True)
        ]
        texts: dict[str, list[Any]] = {
            "sentences": included,
            "abstract": ["\n".join(abstract) for abstract in abstracts],
        }
        # arrays, because the cache cannot infer the integer type from a batch of empty lists
        choices = [np.asarray(selected, dtype=np.int64) for selected in oracle]
        return {**encoded, **texts, "oracle": choices, "index": indices}

    def encoding_settings(self) -> tuple[object, ...]:
        """Return the sentence limit of the oracle."""
        return (self._oracle_limit,)

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token."""
        return SummarizationCollate(int(self.tokenizer.pad_token_id))


def sentence_spans(markers: Sequence[int], length: int, width: int) -> Tensor:
    """Return the start of the span that each of ``width`` positions belongs to, [width] long.

    A sentence without its marker is one span; markers, the last token and padding are spans of one token.

    Args:
        markers: positions of the markers, ascending.
        length: tokens of the article.
        width: tokens of the padded row.
    """
    spans = torch.arange(width)
    for marker, end in zip(markers, [*markers[1:], length - 1], strict=True):
        spans[marker + 1 : end] = marker + 1
    return spans
