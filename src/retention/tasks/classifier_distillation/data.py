"""Load texts, or pairs of texts, without labels, as a fine-tuned classifier or cross-encoder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from retention.data.batching import Batch, EncodedRow
from retention.data.encoding import encode_pairs, encode_texts
from retention.data.loading import Collate
from retention.errors import require
from retention.tasks.embedding.data import TextCollate, TextData

TOKEN_TYPES = "token_type_ids"


@dataclass(frozen=True)
class PairCollate(TextCollate):
    """Pad rows of tokens; adds ``index`` [B] long and, if the rows have them, ``token_type_ids`` [B, T] long."""

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = super().__call__(rows)
        if TOKEN_TYPES in rows[0]:
            types = [torch.tensor(row[TOKEN_TYPES], dtype=torch.long) for row in rows]
            batch[TOKEN_TYPES] = pad_sequence(types, batch_first=True)
        return batch


class ClassifierTexts(TextData):
    """Texts of one file, or pairs of texts from two of its columns, without labels.

    Held-out rows are the same for every seed and are never trained on; a row that occurs several times counts once.
    """

    def __init__(
        self, *, texts: str | None, pair_column: str | None = None, protect_first_text: bool = False, **settings: Any
    ) -> None:
        """Check the configuration; the file is not read before ``setup``.

        Args:
            texts: see ``TextData``.
            pair_column: column with the second text of each row, for cross-encoders; None = single texts.
            protect_first_text: never remove the first text of a pair, such as the query of a reranker.
            settings: see ``TextData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(texts=texts, **settings)
        lines = self.file.suffix == ".txt"
        message = "must be null for a .txt file, which has one text per line; use .jsonl, .csv or .parquet with columns"
        require(pair_column is None or not lines, "pair_column", message)
        message = "needs pairs of texts; set task.data.pair_column, or set it to false"
        require(pair_column is not None or not protect_first_text, "protect_first_text", message)
        self.pair_column = pair_column
        self.protect_first_text = protect_first_text

    def load(self, split: str) -> Dataset:
        """Load all rows of the file, each once: column ``text``, and ``pair`` for pairs."""
        if self.pair_column is None:
            return super().load(split)
        columns = {**self.columns, "pair_column": self.pair_column}
        table = self.read_columns(columns)
        texts, pairs = (table.texts(column) for column in columns.values())
        unique = self.without_repetitions(list(zip(texts, pairs, strict=True)))
        return Dataset.from_dict({"text": [text for text, _ in unique], "pair": [pair for _, pair in unique]})

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return token rows of the texts, with ``index``."""
        return {**self.token_rows(documents["text"], documents.get("pair")), "index": indices}

    def token_rows(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, list[Any]]:
        """Tokenize texts as transformers do for a classifier, see ``encode_texts``.

        Args:
            texts: single texts, or the first text of each pair.
            pairs: second text of each pair.

        Returns:
            The columns of ``encode_texts``; pairs have ``token_type_ids`` too where the tokenizer gives them.
        """
        if pairs is None:
            return encode_texts(self.tokenizer, texts, self.settings.max_length)
        rows = encode_pairs(
            self.tokenizer, texts, pairs, self.settings.max_length, protect_first=self.protect_first_text
        )
        if TOKEN_TYPES not in self.tokenizer.model_input_names:
            del rows[TOKEN_TYPES]
        return rows

    def encoding_settings(self) -> tuple[object, ...]:
        """Return what the protected tokens depend on."""
        return (self.protect_first_text,)

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token."""
        return PairCollate(int(self.tokenizer.pad_token_id))
