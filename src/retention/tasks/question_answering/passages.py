"""Texts with questions about them, as the data modules of question answering hand them on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

# The classes of the answer-type head. The first is the one with a place in the text, the last means "not here".
ANSWER_TYPES = ("span", "yes", "no", "none")
SPAN, YES, NO, NONE = range(4)

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a passage.

    Attributes:
        id: of the question, unique in its file.
        text: the question.
        answer_type: index into ``ANSWER_TYPES``, the target of training.
        spans: characters (first, behind the last) of the passage that answer it; empty where they are unknown.
        places: characters of the paragraphs that the answer rests on; empty where they are unknown.
        references: what the benchmark's metric compares with.
    """

    id: str
    text: str
    answer_type: int
    spans: Sequence[Range]
    places: Sequence[Range]
    references: Any


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A paper or a contract with its questions.

    Attributes:
        id: of the passage.
        text: all of it.
        paragraphs: characters (first, behind the last) of its paragraphs, ascending.
        questions: about it.
        negatives: rows without an answer that are kept per row with one, drawn for this passage; None = all.
    """

    id: str
    text: str
    paragraphs: Sequence[Range]
    questions: Sequence[Question]
    negatives: float | None = None

    def row(self) -> dict[str, str]:
        """As a row of a ``Dataset``: ``text``, and everything else as JSON."""
        fields = asdict(self)
        return {"text": fields.pop("text"), "passage": json.dumps(fields, ensure_ascii=False)}

    @staticmethod
    def from_row(text: str, passage: str) -> Passage:
        """The passage of such a row."""
        fields = json.loads(passage)
        questions = [Question(**question) for question in fields.pop("questions")]
        return Passage(text=text, questions=questions, **fields)


def passage_rows(passages: Sequence[Passage]) -> Dataset:
    """Passages as a ``Dataset`` of ``text`` and ``passage``."""
    rows = [passage.row() for passage in passages]
    return Dataset.from_dict({key: [row[key] for row in rows] for key in ("text", "passage")})


def passages_of(rows: Dataset) -> list[Passage]:
    """The passages of such a ``Dataset``."""
    return [Passage.from_row(text, passage) for text, passage in zip(rows["text"], rows["passage"], strict=True)]
