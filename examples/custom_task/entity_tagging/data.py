"""Load sentences with one entity tag per word."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.benchmark import BenchmarkData
from retention.errors import DataError

IGNORED = -100  # label of tokens without a tag: special tokens, padding, and all but the first token of a word


class EntityData(BenchmarkData):
    """Rows with the columns ``words`` (list of words) and ``tags`` (list of tag names, one per word)."""

    def __init__(self, *, tag_names: Sequence[str], **settings: Any) -> None:
        """Keep the tag names; nothing is read before ``setup``.

        Args:
            tag_names: tags in label order.
            settings: see ``BenchmarkData``.
        """
        super().__init__(**settings)
        self.tag_names = tuple(tag_names)

    def head(self) -> dict[str, Any]:
        """Return the tag names, as an argument of the head."""
        return {"tag_names": self.tag_names}

    def encoding_settings(self) -> tuple[object, ...]:
        """Return the tag names: token rows depend on their order."""
        return self.tag_names

    def load(self, split: str) -> Dataset:
        """Load the sentences of one split.

        Raises:
            DataError: a row has an unknown tag, or not one tag per word.
        """
        table = self.source.read(split, {"words_column": "words", "tags_column": "tags"})
        rows = list(zip(table.columns["words"], table.columns["tags"], strict=True))
        for entry, (words, tags) in enumerate(rows):
            if not words or len(words) != len(tags) or not set(tags) <= set(self.tag_names):
                allowed = ", ".join(self.tag_names)
                raise DataError(f"{table.location(entry)}: needs words and one tag for each, out of {allowed}")
        columns = {"text": [" ".join(words) for words, _ in rows], **table.columns}
        return Dataset.from_dict(columns)

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Tokenize the words; the first token of each word gets its tag."""
        encoded = self.tokenizer(
            documents["words"], is_split_into_words=True, truncation=True, max_length=self.settings.max_length
        )
        labels = []
        for row, tags in enumerate(documents["tags"]):
            word_ids = encoded.word_ids(row)
            is_first = [word is not None and word not in word_ids[:token] for token, word in enumerate(word_ids)]
            labels.append(
                [
                    self.tag_names.index(tags[word]) if first else IGNORED
                    for word, first in zip(word_ids, is_first, strict=True)
                ]
            )
        encodings = encoded.encodings
        return {
            "input_ids": [encoding.ids for encoding in encodings],
            "protected_mask": [[bool(special) for special in encoding.special_tokens_mask] for encoding in encodings],
            "length": [len(encoding.ids) for encoding in encodings],
            "truncated": [bool(encoding.overflowing) for encoding in encodings],
            "tags": labels,
            "index": indices,
        }

    def collator(self) -> "TagCollate":
        """Return a collator that pads tokens and tags."""
        return TagCollate(int(self.tokenizer.pad_token_id))

    @staticmethod
    def build_tokenizer() -> PreTrainedTokenizerFast:
        """Build a tokenizer of single characters, for encoders trained from scratch."""
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        characters = [chr(code) for code in range(33, 127)]
        vocabulary = {token: index for index, token in enumerate(special + characters)}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
        )
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@dataclass(frozen=True)
class TagCollate:
    """Pad tagged rows; adds ``labels`` [B, T] long (``IGNORED`` = no tag) and ``index`` [B] long."""

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        labels = torch.full(batch["input_ids"].shape, IGNORED)
        for row, tags in zip(labels, (row["tags"] for row in rows), strict=True):
            row[: len(tags)] = torch.tensor(tags)
        return {**batch, "labels": labels, "index": integer_column(rows, "index")}
