"""CUAD as clause classification: which of 41 categories does a clause of a contract belong to?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from retention.data.batching import Batch, Row, pad_inputs, whole_numbers
from retention.data.benchmark import BenchmarkData
from retention.data.encoding import encode_texts
from retention.data.loading import Collate
from retention.data.splits import Split, require_count
from retention.errors import Checks, DataError
from retention.tasks.classification.labelled_text import LabelledTextData
from retention.tasks.question_answering.squad_json import Paragraph, SquadDocument, categories_of, read_squad


@dataclass(frozen=True)
class MultiLabelCollate:
    """Pads rows with a list of classes each; adds ``labels`` [B, C] float (1 = member) and ``index`` [B] long."""

    pad_token_id: int
    num_labels: int

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Make one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        batch["labels"] = torch.zeros(len(rows), self.num_labels)
        for labels, row in zip(batch["labels"], rows, strict=True):
            labels[row["labels"]] = 1.0
        batch["index"] = whole_numbers(rows, "index")
        return batch


class CuadClauseData(LabelledTextData, BenchmarkData):
    """One row per clause, with all of its categories.

    A clause is a distinct span of a contract; about one in ten answers questions of several categories, so the labels
    are sets. Splits are made of whole contracts: validation contracts are held out of train, and all sizes count
    contracts. Questions without an answer give no row. Labels are found by the ends of the questions' ids
    (``<title>__<category>``). A local folder holds ``<split>.json`` or ``.json.gz`` in SQuAD's layout.
    """

    def __init__(self, *, surrounding_words: int = 0, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            surrounding_words: 0 = the clause alone; n = the encoder reads the clause, then, as a second text, the
                passage that reaches n words to each side of it.
            settings: see ``LabelledTextData`` and ``BenchmarkData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self._surrounding_words = surrounding_words
        self._contracts: dict[Split, int] = {}
        super().__init__(**settings)

    def check(self, checks: Checks) -> None:
        super().check(checks)
        require_count(checks, "surrounding_words", self._surrounding_words, low=0)

    def read(self, wanted: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the contracts that ``wanted`` needs and list their clauses."""
        contracts = super().read(wanted)
        self._contracts |= {split: len(rows) for split, rows in contracts.items()}
        return {split: self._clauses(split, rows) for split, rows in contracts.items()}

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Token rows of the clauses, with ``labels`` (a list of classes) and ``index``."""
        passages = documents["passage"] if self._surrounding_words else None
        encoded = encode_texts(self.tokenizer, documents["text"], self.settings.max_length, passages)
        return {**encoded, "labels": documents["labels"], "index": indices}

    def encoding_settings(self) -> tuple[object, ...]:
        return (self._surrounding_words > 0,)

    def collator(self) -> Collate:
        """Pad with the tokenizer's padding token; labels as indicators."""
        return MultiLabelCollate(int(self.tokenizer.pad_token_id), self.num_labels)

    def describe(self) -> dict[str, Any]:
        """As for every data set, and the number of contracts per split."""
        contracts = {role: self._contracts.get(role) for role in ("train", "val", "test")}
        return {**super().describe(), "contracts": contracts, "surrounding_words": self._surrounding_words}

    def load(self, split: str) -> Dataset:
        documents = read_squad(self.source, split)
        return Dataset.from_list([self._contract(document) for document in documents])

    def _contract(self, document: SquadDocument) -> dict[str, list[Any]]:
        found = [clause for paragraph in document.paragraphs for clause in self._spans(document.title, paragraph)]
        return {
            "texts": [text for text, _, _ in found],
            "passages": [passage for _, passage, _ in found],
            "labels": [labels for _, _, labels in found],
        }

    def _spans(self, title: str, paragraph: Paragraph) -> Iterator[tuple[str, str, list[int]]]:
        """The clauses of a context in order: text, passage around it, categories."""
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
            f"{self.num_labels} categories; correct it, or give its category in task.data.label_names"
        )

    def _clauses(self, split: Split, contracts: Dataset) -> Dataset:
        rows = [
            {"text": text, "passage": passage, "labels": labels}
            for contract in contracts
            for text, passage, labels in zip(contract["texts"], contract["passages"], contract["labels"], strict=True)
        ]
        if not rows:
            raise DataError(f"{self.name} {split}: none of {len(contracts)} contracts has a clause; use more contracts")
        return Dataset.from_list(rows)


def surroundings(context: str, start: int, end: int, words: int) -> str:
    """The passage of ``context`` that reaches ``words`` words to each side of characters [start, end)."""
    if words == 0:
        return context[start:end]
    before = context[:start].rsplit(None, words)
    after = context[end:].split(None, words)
    first = len(before[0]) if len(before) > words else 0
    last = len(context) - (len(after[-1]) if len(after) > words else 0)
    return context[first:last].strip()
