"""Load the official span track of CUAD: find the clauses of 41 categories in contracts (Hendrycks et al. 2021)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.squad_json import SUFFIXES, SquadDocument, SquadParagraph, categories_of, read_squad
from retention.errors import DataError, require
from retention.tasks.question_answering.answer_candidates import AnswerCandidates
from retention.tasks.question_answering.cuad_metrics import CuadScore, match_clauses
from retention.tasks.question_answering.data import QuestionAnsweringData
from retention.tasks.question_answering.passages import NONE, SPAN, Passage, PassageQuestion, Range, passage_rows
from retention.tasks.question_answering.windows import TokenizedText, question_template

_PREDICTIONS = 20  # spans per question, as in the official predictions
_SUBSTRING_CATEGORY = "Parties"  # a span of this category may be longer than the clause, as in the official evaluation


class CuadSpanData(QuestionAnsweringData):
    """Contracts, each with one question per clause category. Sizes and splits count contracts.

    A contract is cut into overlapping windows. In training, windows without the requested clause are only ``negatives``
    times as many as windows with it; validation and test use all windows. A local folder holds ``<split>.json`` or
    ``.json.gz`` in SQuAD's layout.
    """

    def __init__(
        self, *, stride: int, negatives: float | None = 1.0, categories: Sequence[str] | None = None, **settings: Any
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            stride: tokens between the starts of neighboring windows.
            negatives: training windows without the clause per window with it, drawn per contract; None = all.
            categories: clause categories to ask about, as at the ends of the question ids; None = all.
            settings: see ``QuestionAnsweringData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(stride=stride, negatives=negatives, **settings)
        is_list = isinstance(categories, Sequence) and not isinstance(categories, str) and len(categories) > 0
        message = f"must be a list of clause categories or null, got {categories!r}"
        require(categories is None or is_list, "categories", message)
        self._categories = categories
        self._metric = CuadScore()

    def remarks(self) -> list[str]:
        """Return the changes made to the contracts, for records."""
        chosen = [] if self._categories is None else [f"{len(self._categories)} of the kinds of clauses"]
        return [*super().remarks(), *chosen]

    def score(
        self, passages: Sequence[Passage], candidates: Mapping[tuple[int, int], AnswerCandidates]
    ) -> dict[str, float]:
        """Compute the scores of ``CuadScore``, and counts of the questions.

        Adds ``recall_ceiling``, the share of clauses that some window contains completely, and ``count_clauses``,
        ``count_answerable`` and ``count_unanswerable``.
        """
        predictions, references, reachable = [], [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            for index, question in enumerate(passage.questions):
                predictions.append(_prediction(passage, tokens, candidates.get((number, index))))
                references.append(_reference(question))
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

    def _reachable(self, question: PassageQuestion, tokens: TokenizedText) -> list[bool]:
        """Return for each clause whether some window contains it completely."""
        template = question_template(self.tokenizer, question.text, self.windowing.max_question_length)
        windows = self.windowing.cut(len(tokens.ids), template).ranges
        clauses = [tokens.tokens(span) for span in question.spans]
        return [
            clause is not None and any(start <= clause[0] and clause[1] <= end for start, end in windows)
            for clause in clauses
        ]

    def file_names(self, split: str) -> list[str]:
        """Return the names that a JSON file of a split can have."""
        return [f"{split}{suffix}" for suffix in SUFFIXES]

    def load(self, split: str) -> Dataset:
        """Load the contracts of one split of the source as passages."""
        documents = read_squad(self.source, split)
        self._check_categories(split, documents)
        passages = [
            Passage(id=document.title, text=part.context, paragraphs=[], questions=questions)
            for document in documents
            for part in document.paragraphs
            if (questions := self._questions(part))
        ]
        if not passages:
            raise DataError(f"{self.name}: {split} has no question; check data.dir")
        if split not in self.plan.sources("train") and not any(
            question.spans for each in passages for question in each.questions
        ):
            raise DataError(
                f"{self.name}: no question of {split} has an answer, so precision and recall are not defined; "
                "check data.dir and task.data.categories"
            )
        return passage_rows(passages)

    def _check_categories(self, split: str, documents: Sequence[SquadDocument]) -> None:
        """Raise ``DataError`` if no question of the split is of a requested category."""
        questions = [question for each in documents for part in each.paragraphs for question in part.questions]
        present = {category for question in questions for category in categories_of(question.id)}
        unknown = []
        for category in dict.fromkeys(self._categories or ()):
            if category not in present:
                close = difflib.get_close_matches(str(category), sorted(present), n=1)
                unknown.append(f"{category!r}{f' (did you mean {close[0]!r}?)' if close else ''}")
        if unknown:
            raise DataError(
                f"{self.name}: no question of {split} is of the categories {', '.join(unknown)}; "
                "correct or remove them in task.data.categories"
            )

    def format_answer(
        self, passage: Passage, tokens: TokenizedText, question: PassageQuestion, candidates: AnswerCandidates | None
    ) -> dict[str, Any]:
        """Return the ``id`` of the question, the ``texts`` of the most likely spans, and their ``scores``.

        And, for comparisons, ``clause_scores`` and ``false_scores``, see ``match_clauses``.
        """
        prediction = _prediction(passage, tokens, candidates)
        clauses, unmatched = match_clauses(prediction, _reference(question))
        return {"id": question.id, **prediction, "clause_scores": clauses, "false_scores": unmatched}

    def _questions(self, part: SquadParagraph) -> list[PassageQuestion]:
        """Return the questions of the chosen categories; questions with the same text are merged into one."""
        spans: dict[str, list[Range]] = {}
        ids: dict[str, str] = {}
        for question in part.questions:
            if self._categories is None or set(categories_of(question.id)) & set(self._categories):
                ids.setdefault(question.text, question.id)
                answers = [(answer.start, answer.start + len(answer.text)) for answer in question.answers]
                spans.setdefault(question.text, []).extend(answers)
        return [
            PassageQuestion(
                id=ids[text],
                text=text,
                answer_type=SPAN if answers else NONE,
                spans=(distinct := sorted(set(answers))),
                evidence_spans=[],
                references=[part.context[start:end] for start, end in distinct],
            )
            for text, answers in spans.items()
        ]


def _reference(question: PassageQuestion) -> dict[str, Any]:
    return {"texts": question.references, "substring": _SUBSTRING_CATEGORY in question.id}


def _prediction(passage: Passage, tokens: TokenizedText, candidates: AnswerCandidates | None) -> dict[str, Any]:
    best = [] if candidates is None else candidates.best_spans(_PREDICTIONS)
    ranges = [tokens.characters((first, last + 1)) for (first, last), _ in best]
    return {
        "texts": [passage.text[start:end] for start, end in ranges],
        "scores": [math.exp(min(0.0, score)) for _, score in best],
    }
