"""Load any data set in SQuAD's layout: questions on paragraphs or long documents (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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
    """Paragraphs with questions, with or without questions that they do not answer. Sizes count paragraphs.

    All paragraphs of an article are in the same split: questions on the rest of an article that a model was trained on
    are easier than those on a new one, and a threshold chosen on them does not fit new articles.

    A local folder holds one of ``<split>.json``, ``<split>-v2.0.json`` and ``<split>-v1.1.json``, also ``.gz``. Long
    paragraphs are cut into windows: the answer is the best span over all windows, and there is no answer only if no
    window has one.

    With ``allow_no_answer`` the scores also hold ``best_f1``, the F1 at the best threshold for these questions, and
    ``best_threshold``, as in SQuAD's official script. On validation rows it is the value to choose for
    ``no_answer_threshold``; on test rows ``best_f1`` is an upper bound, since the threshold saw the answers.
    """

    group_column: ClassVar[str | None] = "article"

    def __init__(self, *, allow_no_answer: bool = True, no_answer_threshold: float = 0.5, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            allow_no_answer: True if a question may have no answer in its paragraph, as in SQuAD 2.0; False always
                predicts a span, as in SQuAD 1.1.
            no_answer_threshold: a question has no answer if the probability of that, beside the probability that some
                span answers it, is above this number in [0, 1]; not used without ``allow_no_answer``.
            settings: see ``QuestionAnsweringData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        is_bool = isinstance(allow_no_answer, bool)
        require(is_bool, "allow_no_answer", f"must be true or false, got {allow_no_answer!r}")
        _require_share(no_answer_threshold)
        self._allow_no_answer = allow_no_answer
        self._no_answer_threshold = float(no_answer_threshold)
        self._metric = SquadScore()

    def answer_type(self, candidates: AnswerCandidates, no_answer_threshold: float | None = None) -> int:
        """Choose a span or, if there is none or the threshold allows it, no answer."""
        threshold = self._no_answer_threshold
        if no_answer_threshold is not None:
            message = "must be None: the model was trained with allow_no_answer=false"
            require(self._allow_no_answer, "no_answer_threshold", message)
            _require_share(no_answer_threshold)
            threshold = no_answer_threshold
        is_open = self._allow_no_answer and _no_answer_probability(candidates) > threshold
        return NONE if is_open or not candidates.spans else SPAN

    def file_names(self, split: str) -> list[str]:
        """Return the names that a JSON file of a split can have, with or without its version."""
        return [f"{split}{version}{suffix}" for version in _VERSIONS for suffix in SUFFIXES]

    def load(self, split: str) -> Dataset:
        """Load the paragraphs of one split of the source as passages, with the title of their ``article``."""
        passages, articles = [], []
        for document in self._documents_of(split):
            listed = self._passages_in(document, split)
            passages += listed
            articles += [document.title] * len(listed)
        if not passages:
            raise DataError(f"{self.name}: {split} has no question; point data.dir to another folder")
        rows: Dataset = passage_rows(passages).add_column("article", articles)
        return rows

    def score(
        self, passages: Sequence[Passage], candidates: Mapping[tuple[int, int], AnswerCandidates]
    ) -> dict[str, float]:
        """Compute the scores of ``SquadScore`` and, with ``allow_no_answer``, those of the best threshold."""
        predictions, references, spans, probabilities = [], [], [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            for index, question in enumerate(passage.questions):
                candidate = candidates.get((number, index))
                spans.append(_best_span(passage, tokens, candidate))
                probabilities.append(_no_answer_probability(candidate))
                predictions.append({"text": self._answer(spans[-1], candidate)})
                references.append({"texts": question.references})
        scores: dict[str, float] = self._metric.compute(predictions=predictions, references=references)
        if self._allow_no_answer:
            texts = [reference["texts"] for reference in references]
            best = best_threshold(
                probabilities,
                [answer_scores(span, each)[1] for span, each in zip(spans, texts, strict=True)],
                [answer_scores("", each)[1] for each in texts],
            )
            scores |= {"best_f1": best[0], "best_threshold": best[1]}
        return scores

    def format_answer(
        self, passage: Passage, tokens: TokenizedText, question: PassageQuestion, candidates: AnswerCandidates | None
    ) -> dict[str, Any]:
        """Return ``id``, ``prediction_text`` and ``no_answer_probability``, the format of the metric ``squad_v2``.

        And ``score``, the F1 of the answer, the best over the annotators.
        """
        probability = _no_answer_probability(candidates)
        text = self._answer(_best_span(passage, tokens, candidates), candidates)
        f1 = answer_scores(text, question.references)[1]
        return {"id": question.id, "prediction_text": text, "no_answer_probability": probability, "score": f1}

    def _answer(self, span: str, candidates: AnswerCandidates | None) -> str:
        """Return the text of the best span, or empty for no answer."""
        return span if candidates is not None and self.answer_type(candidates) == SPAN else ""

    def _documents_of(self, split: str) -> list[SquadDocument]:
        if self.source.dir is None:
            return read_squad(self.source, _HUB_NAMES.get(split, split))
        file = find_file(self.source.dir, self.file_names(split), f"{split}.json or {split}.json.gz")
        return read_squad_json(file)

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


def best_threshold(
    probabilities: Sequence[float], answered: Sequence[float], empty: Sequence[float]
) -> tuple[float, float]:
    """Choose the threshold on the probability of no answer at which the mean F1 is highest.

    Args:
        probabilities: probability that a question has no answer, in [0, 1]; at least one question.
        answered: F1 of each question if its best span is the answer.
        empty: F1 of each question if it is left without an answer.

    Returns:
        The F1, and the threshold halfway between the last question that is answered and the next one.
    """
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    total = sum(empty)
    best = (total, 0.0) if probabilities[order[0]] > 0.0 else (-math.inf, 0.0)
    for position, index in enumerate(order):
        total += answered[index] - empty[index]
        following = probabilities[order[position + 1]] if position + 1 < len(order) else 1.0
        if following > probabilities[index] or position + 1 == len(order):
            best = max(best, (total, (probabilities[index] + following) / 2), key=lambda pair: pair[0])
    return best[0] / len(order), best[1]


def _require_share(threshold: object) -> None:
    is_share = isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0.0 <= threshold <= 1.0
    require(is_share, "no_answer_threshold", f"must be a number in [0, 1], got {threshold!r}")


def _no_answer_probability(candidates: AnswerCandidates | None) -> float:
    """Return the probability of no answer beside that of some span, in [0, 1]; 1 if there is no span."""
    if candidates is None or not candidates.spans:
        return 1.0
    difference = candidates.types[SPAN] - candidates.types[NONE]
    return 1.0 / (1.0 + math.exp(min(700.0, difference)))


def _best_span(passage: Passage, tokens: TokenizedText, candidates: AnswerCandidates | None) -> str:
    """Return the text of the most likely span, empty if there is none."""
    if candidates is None or not candidates.spans:
        return ""
    [((first, last), _)] = candidates.best_spans(1)
    return passage.text[slice(*tokens.characters((first, last + 1)))]
