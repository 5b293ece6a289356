"""Load CUAD as clause classification: assign each clause of a contract to some of 41 categories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.benchmark import BenchmarkData
from retention.data.encoding import encode_texts
from retention.data.loading import Collate
from retention.data.settings import require_count
from retention.data.splits import SPLITS, Split
from retention.data.squad_json import (
    SUFFIXES,
    SquadDocument,
    SquadParagraph,
    categories_of,
    read_squad,
)
from retention.errors import DataError
from retention.tasks.classification.labelled_text import LabelledTextData


@dataclass(frozen=True)
class MultiLabelCollate:
    """Pad rows with a list of classes each.

    Adds ``labels`` [B, C] float (1 = member), ``index`` [B] long and ``document`` [B] long, the contract of each row.
    """

    pad_token_id: int
    num_labels: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        batch["labels"] = torch.zeros(len(rows), self.num_labels)
        for labels, row in zip(batch["labels"], rows, strict=True):
            labels[row["labels"]] = 1.0
        batch |= {name: integer_column(rows, name) for name in ("index", "document")}
        return batch


class CuadClauseData(LabelledTextData, BenchmarkData):
    """Clauses of contracts, one row per clause, with all of its categories.

    A clause is a distinct span of a contract; about one in ten answers questions of several categories, so the labels
    are sets. Splits consist of whole contracts: validation contracts are held out of train, and all sizes count
    contracts. Questions without an answer give no row. Labels are read from the ends of the question ids
    (``<title>__<category>``). A local folder holds ``<split>.json`` or ``.json.gz`` in SQuAD's layout.
    """

    encoding_version: ClassVar[int] = 3  # rows have the number of their contract

    def __init__(self, *, surrounding_words: int = 0, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            surrounding_words: 0 = the clause alone; n = the encoder reads the clause and, as a second text, the
                passage that reaches n words to each side of it.
            settings: see ``LabelledTextData`` and ``BenchmarkData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        require_count("surrounding_words", surrounding_words, low=0)
        self._surrounding_words = surrounding_words
        self._contracts: dict[Split, int] = {}

    def read(self, splits: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the contracts of the requested splits and list their clauses."""
        contracts = super().read(splits)
        self._contracts |= {split: len(rows) for split, rows in contracts.items()}
        return {split: self._clauses(split, rows) for split, rows in contracts.items()}

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return token rows of the clauses, with ``labels`` (a list of classes), ``index`` and ``document``."""
        passages = documents["passage"] if self._surrounding_words else None
        encoded = encode_texts(self.tokenizer, documents["text"], self.settings.max_length, passages)
        return {**encoded, "labels": documents["labels"], "index": indices, "document": documents["document"]}

    def encoding_settings(self) -> tuple[object, ...]:
        """Return True if the encoder also reads the surrounding passage."""
        return (self._surrounding_words > 0,)

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token and makes labels indicators."""
        return MultiLabelCollate(int(self.tokenizer.pad_token_id), self.num_labels)

    def describe(self) -> dict[str, Any]:
        """Describe the rows, with the number of contracts per split."""
        contracts = {role: self._contracts.get(role) for role in SPLITS}
        return {**super().describe(), "contracts": contracts, "surrounding_words": self._surrounding_words}

    def file_names(self, split: str) -> list[str]:
        """Return the names that a JSON file of a split can have."""
        return [f"{split}{suffix}" for suffix in SUFFIXES]

    def load(self, split: str) -> Dataset:
        """Load the contracts of one split of the source, one row per contract."""
        documents = read_squad(self.source, split)
        return Dataset.from_list([self._contract(document) for document in documents])

    def _contract(self, document: SquadDocument) -> dict[str, list[Any]]:
        clauses = [clause for paragraph in document.paragraphs for clause in self._spans(document.title, paragraph)]
        return {
            "texts": [text for text, _, _ in clauses],
            "passages": [passage for _, passage, _ in clauses],
            "labels": [labels for _, _, labels in clauses],
        }

    def _spans(self, title: str, paragraph: SquadParagraph) -> Iterator[tuple[str, str, list[int]]]:
        """Yield the clauses of a context in order: text, passage around it, categories."""
        categories: dict[tuple[int, str], set[int]] = {}
        for question in paragraph.questions:
            label = self._category(question.id, title)
            for answer in question.answers:
                categories.setdefault((answer.start, answer.text), set()).add(label)
        for (start, text), labels in sorted(categories.items()):
            passage = surroundings(paragraph.context, start, start + len(text), self._surrounding_words)
            yield text, passage, sorted(labels)

    def _category(self, question_id: str, title: str) -> int:
        for category in categories_of(question_id):
            if category in self.label_names:
                return self.label_names.index(category)
        raise DataError(
            f"{self.name}: contract {title!r}: the question id {question_id!r} does not end with '__' and one of the "
            f"{self.num_labels} categories; correct it, or add its category to task.data.label_names"
        )

    def _clauses(self, split: Split, contracts: Dataset) -> Dataset:
        rows = [
            {"text": text, "passage": passage, "labels": labels, "document": number}
            for number, contract in enumerate(contracts)
            for text, passage, labels in zip(contract["texts"], contract["passages"], contract["labels"], strict=True)
        ]
        if not rows:
            raise DataError(f"{self.name} {split}: none of {len(contracts)} contracts has a clause; use more contracts")
        return Dataset.from_list(rows)


def surroundings(context: str, start: int, end: int, words: int) -> str:
    """Return the passage of ``context`` that reaches ``words`` words to each side of characters [start, end)."""
    if words == 0:
        return context[start:end]
    before = context[:start].rsplit(None, words)
    after = context[end:].split(None, words)
    first = len(before[0]) if len(before) > words else 0
    last = len(context) - (len(after[-1]) if len(after) > words else 0)
    return context[first:last].strip()
