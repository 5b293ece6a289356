"""Questions about one text: from words to rows, and from the heads of all windows to answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from retention.data.base import RetentionData
from retention.records.columns import as_columns, as_rows
from retention.tasks.question_answering.answer_candidates import AnswerCandidates, merge_windows
from retention.tasks.question_answering.passages import ANSWER_TYPES, NONE, SPAN, Passage, Question
from retention.tasks.question_answering.windows import TokenizedText, tokenize_text
from retention.trained.batches import RowResult
from retention.trained.results import Answer


def question_rows(data: RetentionData, questions: Sequence[str], text: str) -> list[dict[str, Any]]:
    """The windows of all questions as encoded rows."""
    asked = [
        Question(id=str(place), text=question, answer_type=NONE, spans=(), places=(), references=None)
        for place, question in enumerate(questions)
    ]
    passage = Passage(id="", text=text, paragraphs=(), questions=asked).row()
    rows = as_rows(data.encode({name: [value] for name, value in passage.items()}, [0]))
    return [{**row, "index": index} for index, row in enumerate(rows)]


def answers_of(
    data: RetentionData, text: str, rows: Sequence[dict[str, Any]], results: Sequence[RowResult]
) -> list[Answer]:
    """One answer per question.

    Args:
        data: with its tokenizer.
        text: what was asked about.
        rows: of ``question_rows``.
        results: what the head notes of each of them.
    """
    tokens = tokenize_text(data.tokenizer, text)
    found = merge_windows(as_columns([result.said for result in results]))
    windows: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        windows.setdefault(row["question"][1], []).append(number)
    answers = []
    for place, own in windows.items():
        kind, probability, characters = _said(found[0, place], tokens)
        answers.append(
            Answer(
                kind=kind,
                text="" if characters is None else text[slice(*characters)],
                characters=characters,
                probability=probability,
                truncated=any(rows[number]["truncated"] for number in own),
                keep_ratio=fmean(results[number].keep_ratio for number in own),
            )
        )
    return answers


def _said(found: AnswerCandidates, tokens: TokenizedText) -> tuple[str, float, tuple[int, int] | None]:
    """Kind, probability and characters of an answer, see ``Answer``."""
    kind = found.answer_type
    certain, characters = found.types[kind], None
    if kind == SPAN:
        [((first, last), certain)] = found.best_spans(1)
        characters = tokens.characters((first, last + 1))
    return ANSWER_TYPES[kind], math.exp(min(certain, 0.0)), characters
