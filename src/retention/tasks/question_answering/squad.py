"""Load any data set in SQuAD's layout: questions on paragraphs or long documents (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.answer_text import answer_scores
from retention.data.local_files import find_file
from retention.data.squad_json import (
    SUFFIXES,
    SquadDocument,
    SquadQuestion,
    read_squad,
    read_squad_json,
)
from retention.errors import DataError, require
from retention.tasks.question_answering.answer_candidates import AnswerCandidates
from retention.tasks.question_answering.data import QuestionAnsweringData
from retention.tasks.question_answering.passages import NONE, SPAN, Passage, PassageQuestion, passage_rows
from retention.tasks.question_answering.squad_metrics import SquadScore
from retention.tasks.question_answering.windows import TokenizedText

# The split that the files call dev is called validation on the hub.
_HUB_NAMES = {"dev": "validation"}
_VERSIONS = ("", "-v2.0", "-v1.1")


class SquadData(QuestionAnsweringData):
    """Paragraphs with questions, with or without questions that they do not answer. Sizes and splits count paragraphs.

    A local folder holds one of ``<split>.json``, ``<split>-v2.0.json`` and ``<split>-v1.1.json``, also ``.gz``. Long
    paragraphs are cut into windows: the answer is the best span over all windows, and there is no answer only if no
    window has one.
    """

    def __init__(self, *, allow_no_answer: bool = True, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            allow_no_answer: True if a question may have no answer in its paragraph, as in SQuAD 2.0; False always
                predicts a span, as in SQuAD 1.1.
            settings: see ``QuestionAnsweringData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        is_bool = isinstance(allow_no_answer, bool)
        require(is_bool, "allow_no_answer", f"must be true or false, got {allow_no_answer!r}")
        self._allow_no_answer = allow_no_answer
        self._metric = SquadScore()

    def answer_types(self) -> tuple[int, ...]:
        """Return a span and, if allowed, no answer."""
        return (SPAN, NONE) if self._allow_no_answer else (SPAN,)

    def load(self, split: str) -> Dataset:
        """Load the paragraphs of one split of the source as passages."""
        passages = [passage for document in self._documents_of(split) for passage in self._passages_in(document, split)]
        if not passages:
            raise DataError(f"{self.name}: {split} has no question; point data.dir to another folder")
        return passage_rows(passages)

    def score(
        self, passages: Sequence[Passage], candidates: Mapping[tuple[int, int], AnswerCandidates]
    ) -> dict[str, float]:
        """Compute the scores of ``SquadScore``."""
        predictions, references = [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            for index, question in enumerate(passage.questions):
                text = self._answer(passage, tokens, candidates.get((number, index)))
                predictions.append({"text": text})
                references.append({"texts": question.references})
        scores: dict[str, float] = self._metric.compute(predictions=predictions, references=references)
        return scores

    def format_answer(
        self, passage: Passage, tokens: TokenizedText, question: PassageQuestion, candidates: AnswerCandidates | None
    ) -> dict[str, Any]:
        """Return ``id``, ``prediction_text`` and ``no_answer_probability``, the format of the metric ``squad_v2``.

        And ``score``, the F1 of the answer, the best over the annotators.
        """
        text = self._answer(passage, tokens, candidates)
        absent = 1.0 if candidates is None else math.exp(min(0.0, candidates.types[NONE]))
        f1 = answer_scores(text, question.references)[1]
        return {"id": question.id, "prediction_text": text, "no_answer_probability": absent, "score": f1}

    def _answer(self, passage: Passage, tokens: TokenizedText, candidates: AnswerCandidates | None) -> str:
        """Return the text of the most likely answer, empty for no answer."""
        if candidates is None or candidates.most_likely_type(self.answer_types()) == NONE:
            return ""
        [((first, last), _)] = candidates.best_spans(1)
        return passage.text[slice(*tokens.characters((first, last + 1)))]

    def _documents_of(self, split: str) -> list[SquadDocument]:
        if self.source.dir is None:
            return read_squad(self.source, _HUB_NAMES.get(split, split))
        names = [f"{split}{version}{suffix}" for version in _VERSIONS for suffix in SUFFIXES]
        return read_squad_json(find_file(self.source.dir, names, f"{split}.json or {split}.json.gz"))

    def _passages_in(self, document: SquadDocument, split: str) -> list[Passage]:
        return [
            Passage(
                id=f"{document.title} {number}",
                text=paragraph.context,
                paragraphs=[],
                questions=[self._question(question, split) for question in paragraph.questions],
            )
            for number, paragraph in enumerate(document.paragraphs)
            if paragraph.questions
        ]

    def _question(self, question: SquadQuestion, split: str) -> PassageQuestion:
        if not (question.answers or self._allow_no_answer):
            raise DataError(
                f"{self.name}: question {question.id!r} of {split} has no answer; set task.data.allow_no_answer=true"
            )
        return PassageQuestion(
            id=question.id,
            text=question.text,
            answer_type=SPAN if question.answers else NONE,
            spans=sorted({(answer.start, answer.start + len(answer.text)) for answer in question.answers}),
            evidence_spans=[],
            references=[answer.text for answer in question.answers],
        )
