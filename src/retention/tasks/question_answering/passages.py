"""Passages: texts with questions about them, the common form of all question answering data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

# Classes of the answer-type head. The first is a span of the text, the last means "not in this text".
ANSWER_TYPES = ("span", "yes", "no", "none")
SPAN, YES, NO, NONE = range(4)

Range = tuple[int, int]  # end-exclusive: [start, end)


@dataclass(frozen=True, kw_only=True)
class PassageQuestion:
    """One question about a passage.

    Attributes:
        id: id of the question, unique in its file.
        text: the question.
        answer_type: index into ``ANSWER_TYPES``, the training target.
        spans: characters [start, end) of the passage that answer it; empty where they are unknown.
        evidence_spans: characters [start, end) of the paragraphs that support the answer; empty where unknown.
        references: reference answers in the form that the benchmark's metric takes.
    """

    id: str
    text: str
    answer_type: int
    spans: Sequence[Range]
    evidence_spans: Sequence[Range]
    references: Any


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text, such as a paper or a contract, with its questions.

    Attributes:
        id: id of the passage.
        text: full text.
        paragraphs: characters [start, end) of its paragraphs, ascending.
        questions: questions about it.
        negatives: rows without an answer that are kept per row with one, drawn for this passage; None = all.
    """

    id: str
    text: str
    paragraphs: Sequence[Range]
    questions: Sequence[PassageQuestion]
    negatives: float | None = None

    def row(self) -> dict[str, str]:
        """Convert to a row of a ``Dataset``: ``text``, and all other fields as JSON."""
        fields = asdict(self)
        return {"text": fields.pop("text"), "passage": json.dumps(fields, ensure_ascii=False)}

    @staticmethod
    def from_row(text: str, passage: str) -> Passage:
        """Build the passage of such a row."""
        fields = json.loads(passage)
        questions = [PassageQuestion(**question) for question in fields.pop("questions")]
        return Passage(text=text, questions=questions, **fields)


def passage_rows(passages: Sequence[Passage]) -> Dataset:
    """Convert passages to a ``Dataset`` with the columns ``text`` and ``passage``."""
    rows = [passage.row() for passage in passages]
    return Dataset.from_dict({key: [row[key] for row in rows] for key in ("text", "passage")})


def passages_of(rows: Dataset) -> list[Passage]:
    """Build the passages of such a ``Dataset``."""
    return [Passage.from_row(text, passage) for text, passage in zip(rows["text"], rows["passage"], strict=True)]
