"""Answer questions about a text with a trained model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from retention.data.base import RetentionData
from retention.errors import require
from retention.records.columns import as_columns, as_rows
from retention.tasks.inference import RowResult
from retention.tasks.question_answering.answer_candidates import AnswerCandidates, merge_windows
from retention.tasks.question_answering.data import QuestionAnsweringData
from retention.tasks.question_answering.passages import ANSWER_TYPES, NONE, SPAN, Passage, PassageQuestion
from retention.tasks.question_answering.windows import TokenizedText, tokenize_text
from retention.tasks.trained_model import TrainedModel, check_texts


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer to one question about a text.

    Attributes:
        kind: ``span``, ``yes``, ``no``, or ``none`` if the text has no answer.
        text: the span as it stands in the text; empty for the other kinds.
        characters: position of the span in the text, [start, end); None for the other kinds.
        probability: in [0, 1]; for a span, of the kind and the position together. Over several windows, that of the
            most confident one, and for ``none`` that of the least confident one.
        truncated: True if the text is longer than what was read.
        keep_ratio: kept tokens / tokens, mean over gated layers and windows, in (0, 1].
    """

    kind: str
    text: str
    characters: tuple[int, int] | None
    probability: float
    truncated: bool
    keep_ratio: float


class Reader(TrainedModel):
    """Trained model that answers questions by spans of a text."""

    example: ClassVar[str] = 'model.ask(["Which law governs the contract?"], contract)[0].text'

    def ask(
        self, questions: Iterable[str], text: str, *, batch_size: int = 32, no_answer_threshold: float | None = None
    ) -> list[Answer]:
        """Answer questions about one text of any length, read in the windows that the model was trained with.

        Args:
            questions: list of questions; also a NumPy array or a pandas Series.
            text: text that the questions are about.
            batch_size: windows per forward pass, >= 1.
            no_answer_threshold: a question has no answer if the probability of that, beside the probability that some
                span answers it, is above this number in [0, 1]; None = as in training. Only for models trained on
                SQuAD's format with ``allow_no_answer``.

        Returns:
            One answer per question, in their order.

        Raises:
            ConfigError: ``questions`` is not a list of strings, ``text`` is not a string, ``batch_size`` is below 1, or
                a threshold is out of range or given to a model without one.
            DataError: the text or a question is empty.
        """
        require(isinstance(text, str), "text", f"must be one string, got {type(text).__name__}")
        check_texts([text], "text")
        questions = check_texts(questions, "question")
        rows = question_rows(self.data, questions, text) if questions else []
        return answers_of(self.data, text, rows, self._evaluated(rows, batch_size), no_answer_threshold)


def question_rows(data: RetentionData, questions: Sequence[str], text: str) -> list[dict[str, Any]]:
    """Return the encoded rows of all windows of all questions."""
    unanswered = [
        PassageQuestion(id=str(index), text=question, answer_type=NONE, spans=(), evidence_spans=(), references=None)
        for index, question in enumerate(questions)
    ]
    passage = Passage(id="", text=text, paragraphs=(), questions=unanswered).row()
    rows = as_rows(data.encode({name: [value] for name, value in passage.items()}, [0]))
    return [{**row, "index": index} for index, row in enumerate(rows)]


def answers_of(
    data: RetentionData,
    text: str,
    rows: Sequence[dict[str, Any]],
    results: Sequence[RowResult],
    no_answer_threshold: float | None = None,
) -> list[Answer]:
    """Merge the results of all windows into one answer per question.

    Args:
        data: data module with its tokenizer.
        text: text that the questions are about.
        rows: of ``question_rows``.
        results: the head's evaluation row for each of them.
        no_answer_threshold: see ``Reader.ask``.
    """
    if not rows:
        return []
    tokens = tokenize_text(data.tokenizer, text)
    candidates = merge_windows(as_columns([result.output for result in results]))
    windows: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        windows.setdefault(row["question"][1], []).append(number)
    answers = []
    for question, numbers in windows.items():
        each = candidates[0, question]
        chosen = each.answer_type
        if isinstance(data, QuestionAnsweringData):
            chosen = data.answer_type(each, no_answer_threshold)
        kind, probability, characters = _best_answer(each, tokens, chosen)
        answers.append(
            Answer(
                kind=kind,
                text="" if characters is None else text[slice(*characters)],
                characters=characters,
                probability=probability,
                truncated=any(rows[number]["truncated"] for number in numbers),
                keep_ratio=fmean(results[number].keep_ratio for number in numbers),
            )
        )
    return answers


def _best_answer(
    candidates: AnswerCandidates, tokens: TokenizedText, kind: int
) -> tuple[str, float, tuple[int, int] | None]:
    """Return kind, probability and characters of the most likely answer of the chosen type."""
    log_probability, characters = candidates.types[kind], None
    if kind == SPAN:
        [((first, last), log_probability)] = candidates.best_spans(1)
        characters = tokens.characters((first, last + 1))
    return ANSWER_TYPES[kind], math.exp(min(log_probability, 0.0)), characters
