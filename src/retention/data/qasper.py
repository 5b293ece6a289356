"""QASPER: questions on scientific papers, answered by a span, yes, no, or not at all (Dasigi et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.best_span import TextWords, best_f1
from retention.data.distractors import lengthen
from retention.data.found_answers import Found
from retention.data.json_files import read_json
from retention.data.local_files import find_file
from retention.data.passages import NONE, SPAN, YES, Passage, Question, passage_rows
from retention.data.qasper_papers import Paper, paper_passage, read_paper
from retention.data.question_answering import QuestionAnsweringData
from retention.data.settings import DataSettings
from retention.data.sources import Source
from retention.data.splits import SplitPlan, require_count
from retention.data.windows import TokenizedText, Windowing, question_frame
from retention.errors import Checks, DataError
from retention.metrics import QasperScore

# The files call dev what the hub calls validation.
_HUB_NAMES = {"dev": "validation"}
_HUB_COLUMNS = ("id", "title", "abstract", "full_text", "qas")


class QasperData(QuestionAnsweringData):
    """Papers with questions. Sizes and splits count papers, so no paper is both trained and tested on.

    The head's best span (its text as it stands in the paper), ``Yes``, ``No`` or ``Unanswerable`` is the answer; the
    paragraphs that hold the best span are the evidence of every answer but ``Unanswerable``, which has none.
    """

    def __init__(
        self,
        *,
        name: str,
        source_note: str,
        hub: Mapping[str, Any] | None,
        dir: str | None,
        max_length: int,
        max_question_length: int,
        stride: int | None,
        splits: Mapping[str, str | None],
        train_size: int | None,
        val_size: int | None,
        test_size: int | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        silver_f1: float = 0.5,
        distractor_tokens: int | None = None,
        negatives: float | None = None,
        num_workers: int = 0,
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            name: short name, used in messages and records.
            source_note: what the rows are, for records.
            hub: ``{path, name, revision}`` of the hub data set, or None.
            dir: local folder with ``<split>.json`` or ``qasper-<split>-v0.3.json``, also ``.gz``; goes before ``hub``.
            max_length: tokens per row, question and special ones included.
            max_question_length: tokens of a question; longer ones are cut and counted.
            stride: tokens between the starts of neighbouring windows; None = papers whole, cut at ``max_length``.
            splits: source split per role, ``{train, val, test}``; val None = ``val_size`` papers held out of train.
            train_size: papers to train on, drawn by ``seed``; None = all.
            val_size: papers to validate on, the same for every seed.
            test_size: papers to test on, the same for every seed; None = all.
            batch_size: rows per training batch and process.
            eval_batch_size: rows per validation and test batch and process.
            seed: draws ``train_size`` papers and orders the training batches.
            silver_f1: token F1 in (0, 1] from which on the closest piece of the paper is the training target of a
                free-form answer; below it only the answer type is trained.
            distractor_tokens: training and held-out papers get paragraphs of other papers up to this length; None =
                none. For papers of which little is known.
            negatives: training windows without an answer per window with one, drawn per paper; None = all. Only with
                ``stride``.
            num_workers: loader processes; 0 = load in the main one.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        checks = Checks()
        self._source = Source(dir, hub)
        self._source.check(checks)
        self._plan = SplitPlan(names=splits, train_size=train_size, val_size=val_size, test_size=test_size, seed=seed)
        self._plan.check(checks)
        checks.require(0.0 < silver_f1 <= 1.0, "silver_f1", f"must be in (0, 1], got {silver_f1}")
        require_count(checks, "distractor_tokens", distractor_tokens, optional=True)
        if distractor_tokens is not None:
            source_note = (
                f"{source_note}; training papers lengthened with paragraphs of others to {distractor_tokens} tokens"
            )
        settings = DataSettings(
            name=name,
            source_note=source_note,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        windowing = Windowing(
            max_length=max_length, max_question_length=max_question_length, stride=stride, max_document_length=None
        )
        super().__init__(windowing=windowing, negatives=negatives, plan=self._plan, settings=settings, checks=checks)
        self._silver_f1 = silver_f1
        self._distractor_tokens = distractor_tokens
        self._metric = QasperScore()
        self._ceilings: dict[str, float] = {}

    def grade(self, passages: Sequence[Passage], found: Mapping[tuple[int, int], Found]) -> dict[str, float]:
        """The scores of ``QasperScore``, and ``oracle_f1``: Answer-F1 if the head made no mistake."""
        predictions, references, ceilings = [], [], []
        for number, passage in enumerate(passages):
            tokens = self.tokens_of(passage)
            words = TextWords(passage.text)
            for place, question in enumerate(passage.questions):
                predictions.append(_prediction(passage, tokens, found.get((number, place))))
                references.append({"answers": question.references})
                ceilings.append(self._ceiling(passage, question, tokens, words))
        scores: dict[str, float] = self._metric.compute(predictions=predictions, references=references)
        return scores | {"oracle_f1": sum(ceilings) / len(ceilings)}

    def _load(self, split: str) -> Dataset:
        papers, place = self._papers(split)
        if self._distractor_tokens is not None and split == self._plan.names["train"]:
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
        if self._source.dir is not None:
            stems = (split, f"qasper-{split}-v0.3")
            names = [f"{stem}{suffix}" for stem in stems for suffix in (".json", ".json.gz")]
            path = find_file(self._source.dir, names, f"{split}.json or {split}.json.gz")
            content = read_json(path)
            if not isinstance(content, Mapping) or not content:
                raise DataError(f"{path}: must be an object of papers by their ids; get or write it again")
            return [read_paper(name, paper, f"{path}, paper {name}") for name, paper in content.items()], str(path)
        table = self._source.read(_HUB_NAMES.get(split, split), {column: column for column in _HUB_COLUMNS})
        records = [dict(zip(_HUB_COLUMNS, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]
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


def _prediction(passage: Passage, tokens: TokenizedText, found: Found | None) -> dict[str, Any]:
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
