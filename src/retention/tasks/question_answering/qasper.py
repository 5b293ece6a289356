"""QASPER: questions on scientific papers, answered by a span, yes, no, or not at all (Dasigi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.json_files import read_json
from retention.data.local_files import find_file
from retention.data.splits import require_count
from retention.errors import Checks, DataError
from retention.records.columns import as_rows
from retention.tasks.question_answering.answer_candidates import AnswerCandidates
from retention.tasks.question_answering.answer_text import token_f1
from retention.tasks.question_answering.best_span import TextWords, best_f1
from retention.tasks.question_answering.data import QuestionAnsweringData
from retention.tasks.question_answering.distractors import lengthen
from retention.tasks.question_answering.passages import NONE, SPAN, YES, Passage, Question, passage_rows
from retention.tasks.question_answering.qasper_metrics import QasperScore, answer_f1
from retention.tasks.question_answering.qasper_papers import Paper, paper_passage, read_paper
from retention.tasks.question_answering.windows import TokenizedText, question_frame

# The files call dev what the hub calls validation.
_HUB_NAMES = {"dev": "validation"}
_FIXED = ("Yes", "No", "Unanswerable")
_HUB_COLUMNS = ("id", "title", "abstract", "full_text", "qas")


class QasperData(QuestionAnsweringData):
    """Papers with questions. Sizes and splits count papers, so no paper is both trained and tested on.

    A local folder holds ``<split>.json`` or ``qasper-<split>-v0.3.json``, also ``.gz``.

    The head's best span (its text as it stands in the paper), ``Yes``, ``No`` or ``Unanswerable`` is the answer; the
    paragraphs that hold the best span are the evidence of every answer but ``Unanswerable``, which has none.
    """

    def __init__(self, *, silver_f1: float = 0.5, distractor_tokens: int | None = None, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            silver_f1: token F1 in (0, 1] from which on the closest piece of the paper is the training target of a
                free-form answer; below it only the answer type is trained.
            distractor_tokens: training and held-out papers get paragraphs of other papers up to this length; None =
                none. For papers of which little is known.
            settings: see ``QuestionAnsweringData``.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self._silver_f1 = silver_f1
        self._distractor_tokens = distractor_tokens
        super().__init__(**settings)
        self._metric = QasperScore()
        self._ceilings: dict[str, float] = {}

    def check(self, checks: Checks) -> None:
        checks.require(0.0 < self._silver_f1 <= 1.0, "silver_f1", f"must be in (0, 1], got {self._silver_f1}")
        require_count(checks, "distractor_tokens", self._distractor_tokens, optional=True)
        super().check(checks)

    def remarks(self) -> list[str]:
        tokens = self._distractor_tokens
        longer = f"training papers lengthened with paragraphs of others to {tokens} tokens"
        return [*super().remarks(), *([] if tokens is None else [longer])]

    def grade(self, passages: Sequence[Passage], found: Mapping[tuple[int, int], AnswerCandidates]) -> dict[str, float]:
        """The scores of ``QasperScore``, and two marks of Answer-F1 to read them by.

        ``oracle_f1``: if the head made no mistake; ``fixed_f1``: of always saying Yes, No or Unanswerable, whichever
        scores best.
        """
        predictions, references, ceilings = [], [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            words = TextWords(passage.text)
            for place, question in enumerate(passage.questions):
                predictions.append(_prediction(passage, tokens, found.get((number, place))))
                references.append({"answers": question.references})
                ceilings.append(self._ceiling(passage, question, tokens, words))
        scores: dict[str, float] = self._metric.compute(predictions=predictions, references=references)
        return scores | {"oracle_f1": sum(ceilings) / len(ceilings), "fixed_f1": _best_fixed(references)}

    def answer(
        self, passage: Passage, tokens: TokenizedText, question: Question, found: AnswerCandidates | None
    ) -> dict[str, Any]:
        """``question_id``, ``predicted_answer``, ``predicted_evidence``, as the official evaluator reads them.

        And ``score``, the token F1 of the answer, the best over the annotators.
        """
        said = _prediction(passage, tokens, found)
        return {
            "question_id": question.id,
            "predicted_answer": said["answer"],
            "predicted_evidence": said["evidence"],
            "score": answer_f1(said, question.references),
        }

    def load(self, split: str) -> Dataset:
        papers, place = self._papers(split)
        if self._distractor_tokens is not None and split == self.plan.names["train"]:
            papers = lengthen(papers, self._distractor_tokens, self._count)
        passages = [
            passage
            for paper in papers
            if (passage := paper_passage(paper, silver_f1=self._silver_f1, place=f"{place}, paper {paper.id}"))
        ]
        if not passages:
            raise DataError(f"{place}: has no question; point data.dir to another folder")
        return passage_rows(passages)

    def _papers(self, split: str) -> tuple[list[Paper], str]:
        if self.source.dir is not None:
            stems = (split, f"qasper-{split}-v0.3")
            names = [f"{stem}{suffix}" for stem in stems for suffix in (".json", ".json.gz")]
            path = find_file(self.source.dir, names, f"{split}.json or {split}.json.gz")
            content = read_json(path)
            if not isinstance(content, Mapping) or not content:
                raise DataError(f"{path}: must be an object of papers by their ids; get or write it again")
            return [read_paper(name, paper, f"{path}, paper {name}") for name, paper in content.items()], str(path)
        table = self.source.read(_HUB_NAMES.get(split, split), {column: column for column in _HUB_COLUMNS})
        records = as_rows(table.columns)
        papers = [read_paper(str(record["id"]), record, table.place(n)) for n, record in enumerate(records)]
        return papers, table.source

    def _count(self, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def _ceiling(self, passage: Passage, question: Question, tokens: TokenizedText, words: TextWords) -> float:
        """The best Answer-F1 within reach: yes, no and unanswerable are, a text is as far as its words are shown."""
        key = f"{passage.id} {question.id}"
        if key not in self._ceilings:
            frame = question_frame(self.tokenizer, question.text, self.windowing.max_question_length)
            shown = self.windowing.cut(len(tokens.ids), frame).ranges[-1][1]
            until = int(tokens.ends[shown - 1]) if shown else 0
            self._ceilings[key] = max(
                best_f1(words, answer["text"], until=until) if answer["kind"] in ("extractive", "abstractive") else 1.0
                for answer in question.references
            )
        return self._ceilings[key]


def _best_fixed(references: Sequence[Mapping[str, Any]]) -> float:
    """The highest mean Answer-F1 of one and the same answer to every question."""
    answers = [[answer["text"] for answer in reference["answers"]] for reference in references]
    return max(
        sum(max(token_f1(fixed, text) for text in texts) for texts in answers) / len(answers) for fixed in _FIXED
    )


def _prediction(passage: Passage, tokens: TokenizedText, found: AnswerCandidates | None) -> dict[str, Any]:
    if found is None:
        return {"answered": False, "answer": "", "evidence": []}
    if found.answer_type == NONE:
        return {"answered": True, "answer": "Unanswerable", "evidence": []}
    text, evidence = "", []
    for (first, last), _ in found.best_spans(1):
        start, behind = tokens.characters((first, last + 1))
        text = passage.text[start:behind]
        evidence = [passage.text[a:b] for a, b in passage.paragraphs if a < behind and start < b]
    if found.answer_type != SPAN:
        text = "Yes" if found.answer_type == YES else "No"
    return {"answered": True, "answer": text, "evidence": evidence}
