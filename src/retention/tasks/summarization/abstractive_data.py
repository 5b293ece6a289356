"""Abstractive summarization: articles to read, and abstracts to write token by token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from retention.data.batching import Batch, Row, pad_inputs, whole_numbers
from retention.data.encoded_split import EncodedSplit
from retention.data.encoding import encode_texts
from retention.data.loading import Collate
from retention.data.splits import Split, require_count
from retention.errors import Checks
from retention.tasks.summarization.articles import ArticleData
from retention.tasks.summarization.sentences import split_sentences

_log = logging.getLogger(__name__)

IGNORED = -100  # the label of padding, which the cross-entropy leaves out


@dataclass(frozen=True)
class AbstractiveCollate:
    """Pads articles and their abstracts.

    Adds ``labels`` [B, L] long, the tokens of the abstract with its special ones, -100 = padding; ``index`` [B] long;
    and ``abstract``, a list of strings with one sentence per line.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Make one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        written = [torch.tensor(row["summary_ids"], dtype=torch.long) for row in rows]
        batch["labels"] = pad_sequence(written, batch_first=True, padding_value=IGNORED)
        batch["index"] = whole_numbers(rows, "index")
        batch["abstract"] = [row["abstract"] for row in rows]
        return batch


class AbstractiveData(ArticleData):
    """Articles as one text each, abstracts as what a decoder has to write."""

    def __init__(self, *, max_summary_length: int, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            max_summary_length: tokens of a summary, special ones included: longer abstracts are cut and counted in
                training, and no more is written. Scores compare with whole abstracts.
            settings: see ``ArticleData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self._max_summary_length = max_summary_length
        super().__init__(**settings)

    def check(self, checks: Checks) -> None:
        require_count(checks, "max_summary_length", self._max_summary_length, low=4)
        super().check(checks)

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Token rows of the articles with ``summary_ids``, ``summary_cut``, ``abstract`` and ``index``."""
        encoded = encode_texts(self.tokenizer, documents["text"], self.settings.max_length)
        written = encode_texts(self.tokenizer, documents["abstract"], self._max_summary_length)
        return {
            **encoded,
            "summary_ids": written["input_ids"],
            "summary_cut": written["truncated"],
            "abstract": ["\n".join(split_sentences(text)) for text in documents["abstract"]],
            "index": indices,
        }

    def encoding_settings(self) -> tuple[object, ...]:
        return (self._max_summary_length,)

    def collator(self) -> Collate:
        """Pad with the tokenizer's padding token; labels with -100."""
        return AbstractiveCollate(int(self.tokenizer.pad_token_id))

    def head(self) -> dict[str, Any]:
        return {"spell": self.spell, "max_summary_length": self._max_summary_length}

    def spell(self, summaries: Sequence[Sequence[int]]) -> list[str]:
        """The texts of written tokens, one sentence per line."""
        texts = self.tokenizer.batch_decode([list(tokens) for tokens in summaries], skip_special_tokens=True)
        return ["\n".join(split_sentences(text)) for text in texts]

    def describe(self) -> dict[str, Any]:
        """As for every data set; ``summaries_cut`` counts abstracts that were cut."""
        described = super().describe()
        cut = {split: sum(rows.rows["summary_cut"][:]) for split, rows in self._splits.items()}
        return {**described, "summaries_cut": {role: cut.get(role) for role in described["truncated"]}}

    def _encode_split(self, split: Split, documents: Dataset) -> EncodedSplit:
        encoded = super()._encode_split(split, documents)
        cut = sum(encoded.rows["summary_cut"][:])
        if cut and self._place()[0] == 0:
            message = "%s %s: %d of %d abstracts are longer than max_summary_length=%d tokens and were cut"
            _log.warning(message, self.name, split, cut, len(encoded.rows), self._max_summary_length)
        return encoded
