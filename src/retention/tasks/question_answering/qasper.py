"""Load QASPER: questions on scientific papers, answered by a span, yes, no, or not at all (Dasigi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.answer_text import SpanMatcher, token_f1
from retention.data.json_files import read_json
from retention.data.local_files import find_file
from retention.data.settings import require_count
from retention.errors import DataError, require
from retention.records.columns import as_rows
from retention.tasks.question_answering.answer_candidates import AnswerCandidates
from retention.tasks.question_answering.data import QuestionAnsweringData
from retention.tasks.question_answering.distractors import lengthen
from retention.tasks.question_answering.passages import NONE, SPAN, YES, Passage, PassageQuestion, passage_rows
from retention.tasks.question_answering.qasper_metrics import QasperScore, answer_f1
from retention.tasks.question_answering.qasper_papers import Paper, paper_passage, read_paper
from retention.tasks.question_answering.windows import TokenizedText, question_template

# The split that the files call dev is called validation on the hub.
_HUB_NAMES = {"dev": "validation"}
_CONSTANT_ANSWERS = ("Yes", "No", "Unanswerable")
_HUB_COLUMNS = ("id", "title", "abstract", "full_text", "qas")


class QasperData(QuestionAnsweringData):
    """Papers with questions. Sizes and splits count papers, so no paper is both trained and tested on.

    A local folder holds ``<split>.json`` or ``qasper-<split>-v0.3.json``, also ``.gz``.

    The answer is the best span of the head (its text in the paper), ``Yes``, ``No`` or ``Unanswerable``; the paragraphs
    that contain the best span are the evidence of every answer but ``Unanswerable``, which has none.
    """

    def __init__(self, *, silver_f1: float = 0.5, distractor_tokens: int | None = None, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            silver_f1: lowest token F1, in (0, 1], at which the closest span of the paper is the training target of a
                free-form answer; below it only the answer type is trained.
            distractor_tokens: training and held-out papers get paragraphs of other papers up to this length; None =
                none. For papers of which only a part is available.
            settings: see ``QuestionAnsweringData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        require(0.0 < silver_f1 <= 1.0, "silver_f1", f"must be in (0, 1], got {silver_f1}")
        require_count("distractor_tokens", distractor_tokens, optional=True)
        self._silver_f1 = silver_f1
        self._distractor_tokens = distractor_tokens
        self._metric = QasperScore()
        self._oracle_scores: dict[str, float] = {}

    def remarks(self) -> list[str]:
        """Return the changes made to the papers, for records."""
        tokens = self._distractor_tokens
        longer = f"training papers lengthened with paragraphs of others to {tokens} tokens"
        return [*super().remarks(), *([] if tokens is None else [longer])]

    def score(
        self, passages: Sequence[Passage], candidates: Mapping[tuple[int, int], AnswerCandidates]
    ) -> dict[str, float]:
        """Compute the scores of ``QasperScore``, and two values of Answer-F1 for comparison.

        ``oracle_f1``: Answer-F1 of a head without errors; ``fixed_f1``: Answer-F1 of always answering Yes, No or
        Unanswerable, whichever scores best.
        """
        predictions, references, oracle = [], [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            matcher = SpanMatcher(passage.text)
            for index, question in enumerate(passage.questions):
                predictions.append(_prediction(passage, tokens, candidates.get((number, index))))
                references.append({"answers": question.references})
                oracle.append(self._oracle_f1(passage, question, tokens, matcher))
        scores: dict[str, float] = self._metric.compute(predictions=predictions, references=references)
        return scores | {"oracle_f1": sum(oracle) / len(oracle), "fixed_f1": _best_constant_f1(references)}

    def format_answer(
        self, passage: Passage, tokens: TokenizedText, question: PassageQuestion, candidates: AnswerCandidates | None
    ) -> dict[str, Any]:
        """Return ``question_id``, ``predicted_answer`` and ``predicted_evidence`` in the official evaluator's format.

        And ``score``, the token F1 of the answer, the best over the annotators.
        """
        prediction = _prediction(passage, tokens, candidates)
        return {
            "question_id": question.id,
            "predicted_answer": prediction["answer"],
            "predicted_evidence": prediction["evidence"],
            "score": answer_f1(prediction, question.references),
        }

    def file_names(self, split: str) -> list[str]:
        """Return the names that a JSON file of a split can have: the split's, or that of the release."""
        return [f"{stem}{suffix}" for stem in (split, f"qasper-{split}-v0.3") for suffix in (".json", ".json.gz")]

    def load(self, split: str) -> Dataset:
        """Load the papers of one split of the source as passages."""
        papers, source = self._papers(split)
        if self._distractor_tokens is not None and split in self.plan.sources("train"):
            papers = lengthen(papers, self._distractor_tokens, self._count_tokens)
        passages = [
            passage
            for paper in papers
            if (passage := paper_passage(paper, silver_f1=self._silver_f1, location=f"{source}, paper {paper.id}"))
        ]
        if not passages:
            raise DataError(f"{source}: has no question; point data.dir to another folder")
        return passage_rows(passages)

    def _papers(self, split: str) -> tuple[list[Paper], str]:
        if self.source.dir is not None:
            path = find_file(self.source.dir, self.file_names(split), f"{split}.json or {split}.json.gz")
            content = read_json(path)
            if not isinstance(content, Mapping) or not content:
                raise DataError(f"{path}: must be an object of papers by their ids; download or write it again")
            return [read_paper(name, paper, f"{path}, paper {name}") for name, paper in content.items()], str(path)
        table = self.source.read(_HUB_NAMES.get(split, split), {column: column for column in _HUB_COLUMNS})
        records = as_rows(table.columns)
        papers = [read_paper(str(record["id"]), record, table.location(n)) for n, record in enumerate(records)]
        return papers, table.source

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def _oracle_f1(
        self, passage: Passage, question: PassageQuestion, tokens: TokenizedText, matcher: SpanMatcher
    ) -> float:
        """Compute the best reachable Answer-F1.

        Yes, no and unanswerable are always reachable, other answers as far as their words are in the windows.
        """
        key = f"{passage.id} {question.id}"
        if key not in self._oracle_scores:
            template = question_template(self.tokenizer, question.text, self.windowing.max_question_length)
            covered = self.windowing.cut(len(tokens.ids), template).ranges[-1][1]
            until = int(tokens.ends[covered - 1]) if covered else 0
            self._oracle_scores[key] = max(
                matcher.best_f1(answer["text"], until=until) if answer["kind"] in ("extractive", "abstractive") else 1.0
                for answer in question.references
            )
        return self._oracle_scores[key]


def _best_constant_f1(references: Sequence[Mapping[str, Any]]) -> float:
    """Compute the highest mean Answer-F1 of giving the same answer to every question."""
    answers = [[answer["text"] for answer in reference["answers"]] for reference in references]
    return max(
        sum(max(token_f1(constant, text) for text in texts) for texts in answers) / len(answers)
        for constant in _CONSTANT_ANSWERS
    )


def _prediction(passage: Passage, tokens: TokenizedText, candidates: AnswerCandidates | None) -> dict[str, Any]:
    if candidates is None:
        return {"answered": False, "answer": "", "evidence": []}
    if candidates.answer_type == NONE:
        return {"answered": True, "answer": "Unanswerable", "evidence": []}
    text, evidence = "", []
    for (first, last), _ in candidates.best_spans(1):
        start, end = tokens.characters((first, last + 1))
        text = passage.text[start:end]
        evidence = [passage.text[a:b] for a, b in passage.paragraphs if a < end and start < b]
    if candidates.answer_type != SPAN:
        text = "Yes" if candidates.answer_type == YES else "No"
    return {"answered": True, "answer": text, "evidence": evidence}
