"""Load abstractive summarization data: articles as inputs, abstracts as target token sequences."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.encoded_split import EncodedSplit
from retention.data.encoding import encode_texts
from retention.data.loading import Collate
from retention.data.settings import require_count
from retention.data.splits import Split
from retention.tasks.summarization.articles import ArticleData
from retention.tasks.summarization.sentences import split_sentences

_log = logging.getLogger(__name__)

IGNORED = -100  # label of padding, ignored by the cross-entropy


@dataclass(frozen=True)
class AbstractiveCollate:
    """Pad articles and their abstracts.

    Adds ``labels`` [B, L] long, tokens of the abstract with special tokens, -100 = padding; ``index`` [B] long;
    and ``abstract``, a list of strings with one sentence per line.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        targets = [torch.tensor(row["summary_ids"], dtype=torch.long) for row in rows]
        batch["labels"] = pad_sequence(targets, batch_first=True, padding_value=IGNORED)
        batch["index"] = integer_column(rows, "index")
        batch["abstract"] = [row["abstract"] for row in rows]
        return batch


class AbstractiveData(ArticleData):
    """Articles as one text each, with their abstracts as targets of a decoder."""

    def __init__(self, *, max_summary_length: int, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            max_summary_length: tokens of a summary, special tokens included: longer abstracts are truncated and counted
                in training, and generation stops there. Scores compare with whole abstracts.
            settings: see ``ArticleData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        require_count("max_summary_length", max_summary_length, low=4)
        self._max_summary_length = max_summary_length

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return token rows of the articles with ``summary_ids``, ``summary_cut``, ``abstract`` and ``index``."""
        encoded = encode_texts(self.tokenizer, documents["text"], self.settings.max_length)
        summaries = encode_texts(self.tokenizer, documents["abstract"], self._max_summary_length)
        return {
            **encoded,
            "summary_ids": summaries["input_ids"],
            "summary_cut": summaries["truncated"],
            "abstract": ["\n".join(split_sentences(text)) for text in documents["abstract"]],
            "index": indices,
        }

    def encoding_settings(self) -> tuple[object, ...]:
        """Return the length limit of the abstracts."""
        return (self._max_summary_length,)

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token, and labels with -100."""
        return AbstractiveCollate(int(self.tokenizer.pad_token_id))

    def head(self) -> dict[str, Any]:
        """Return the arguments of the head: a function that decodes summaries, and their length limit."""
        return {"decode_fn": self.decode, "max_summary_length": self._max_summary_length}

    def decode(self, summaries: Sequence[Sequence[int]]) -> list[str]:
        """Convert token ids of summaries to texts, one sentence per line."""
        texts = self.tokenizer.batch_decode([list(tokens) for tokens in summaries], skip_special_tokens=True)
        return ["\n".join(split_sentences(text)) for text in texts]

    def describe(self) -> dict[str, Any]:
        """Describe the rows; ``summaries_cut`` counts abstracts that were truncated."""
        described = super().describe()
        truncated = {split: sum(rows.rows["summary_cut"][:]) for split, rows in self._splits.items()}
        return {**described, "summaries_cut": {role: truncated.get(role) for role in described["truncated"]}}

    def _encode_split(self, split: Split, documents: Dataset) -> EncodedSplit:
        encoded = super()._encode_split(split, documents)
        count = sum(encoded.rows["summary_cut"][:])
        if count and self._rank_and_world_size()[0] == 0:
            message = "%s %s: %d of %d abstracts are longer than max_summary_length=%d tokens and were truncated"
            _log.warning(message, self.name, split, count, len(encoded.rows), self._max_summary_length)
        return encoded
