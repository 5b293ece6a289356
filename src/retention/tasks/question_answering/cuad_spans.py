"""CUAD's official span track: find the clauses of 41 kinds in contracts (Hendrycks et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.errors import Checks, DataError
from retention.tasks.question_answering.answer_candidates import AnswerCandidates
from retention.tasks.question_answering.cuad_metrics import CuadScore
from retention.tasks.question_answering.data import QuestionAnsweringData
from retention.tasks.question_answering.passages import NONE, SPAN, Passage, Question, Range, passage_rows
from retention.tasks.question_answering.squad_json import Paragraph, categories_of, read_squad
from retention.tasks.question_answering.windows import TokenizedText, question_frame

_PREDICTIONS = 20  # spans per question, as in the official predictions
_CONTAINING = "Parties"  # questions of which a span may be longer than the clause, officially known by their ids


class CuadSpanData(QuestionAnsweringData):
    """Contracts, each with one question per kind of clause. Sizes and splits count contracts.

    A contract is cut into overlapping windows. Training sees those without the clause in question only
    ``negatives`` times as often as those with it; validation and test see all of them. A local folder holds
    ``<split>.json`` or ``.json.gz`` in SQuAD's layout.
    """

    def __init__(
        self, *, stride: int, negatives: float | None = 1.0, categories: Sequence[str] | None = None, **settings: Any
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            stride: tokens between the starts of neighbouring windows.
            negatives: training windows without the clause per window with it, drawn per contract; None = all.
            categories: kinds of clauses to ask for, as the ends of the questions' ids; None = all.
            settings: see ``QuestionAnsweringData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self._categories = categories
        super().__init__(stride=stride, negatives=negatives, **settings)
        self._metric = CuadScore()

    def check(self, checks: Checks) -> None:
        names = self._categories
        listed = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
        message = f"must be a list of kinds of clauses or null, got {names!r}"
        checks.require(names is None or listed, "categories", message)
        super().check(checks)

    def remarks(self) -> list[str]:
        chosen = [] if self._categories is None else [f"{len(self._categories)} of the kinds of clauses"]
        return [*super().remarks(), *chosen]

    def grade(self, passages: Sequence[Passage], found: Mapping[tuple[int, int], AnswerCandidates]) -> dict[str, float]:
        """The scores of ``CuadScore``.

        And ``recall_ceiling``, the share of clauses that some window holds whole; ``count_clauses``,
        ``count_answerable`` and ``count_unanswerable``, what was to be found.
        """
        predictions, references, reachable = [], [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            for place, question in enumerate(passage.questions):
                predictions.append(_prediction(passage, tokens, found.get((number, place))))
                references.append({"texts": question.references, "substring": _CONTAINING in question.id})
                reachable += self._reachable(question, tokens)
        scores: dict[str, float] = self._metric.compute(predictions=predictions, references=references)
        answerable = sum(bool(reference["texts"]) for reference in references)
        if reachable:
            scores["recall_ceiling"] = sum(reachable) / len(reachable)
        return scores | {
            "count_clauses": float(len(reachable)),
            "count_answerable": float(answerable),
            "count_unanswerable": float(len(references) - answerable),
        }

    def _reachable(self, question: Question, tokens: TokenizedText) -> list[bool]:
        """For each clause, whether some window holds it whole."""
        frame = question_frame(self.tokenizer, question.text, self.windowing.max_question_length)
        windows = self.windowing.cut(len(tokens.ids), frame).ranges
        clauses = [tokens.tokens(span) for span in question.spans]
        return [
            clause is not None and any(first <= clause[0] and clause[1] <= behind for first, behind in windows)
            for clause in clauses
        ]

    def load(self, split: str) -> Dataset:
        passages = [
            Passage(id=document.title, text=part.context, paragraphs=[], questions=questions)
            for document in read_squad(self.source, split)
            for part in document.paragraphs
            if (questions := self._questions(part))
        ]
        if not passages:
            wanted = "" if self._categories is None else f" of the categories {', '.join(self._categories)}"
            raise DataError(f"{self.name}: {split} has no question{wanted}; check data.dir and task.data.categories")
        return passage_rows(passages)

    def answer(
        self, passage: Passage, tokens: TokenizedText, question: Question, found: AnswerCandidates | None
    ) -> dict[str, Any]:
        """``id`` of the question, ``texts`` of the spans from the likeliest on, and their ``scores``."""
        return {"id": question.id, **_prediction(passage, tokens, found)}

    def _questions(self, part: Paragraph) -> list[Question]:
        """The questions of the categories asked for; one that the file asks once per answer is one question."""
        spans: dict[str, list[Range]] = {}
        ids: dict[str, str] = {}
        for question in part.questions:
            if self._categories is None or set(categories_of(question.id)) & set(self._categories):
                ids.setdefault(question.text, question.id)
                found = [(answer.start, answer.start + len(answer.text)) for answer in question.answers]
                spans.setdefault(question.text, []).extend(found)
        return [
            Question(
                id=ids[text],
                text=text,
                answer_type=SPAN if places else NONE,
                spans=(distinct := sorted(set(places))),
                places=[],
                references=[part.context[first:behind] for first, behind in distinct],
            )
            for text, places in spans.items()
        ]


def _prediction(passage: Passage, tokens: TokenizedText, found: AnswerCandidates | None) -> dict[str, Any]:
    best = [] if found is None else found.best_spans(_PREDICTIONS)
    ranges = [tokens.characters((first, last + 1)) for (first, last), _ in best]
    return {
        "texts": [passage.text[first:behind] for first, behind in ranges],
        "scores": [math.exp(min(0.0, score)) for _, score in best],
    }
