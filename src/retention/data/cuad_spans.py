"""CUAD's official span track: find the clauses of 41 kinds in contracts (Hendrycks et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from retention.data.found_answers import Found
from retention.data.json_files import item, read_json, require_whole_characters
from retention.data.local_files import find_file
from retention.data.passages import NONE, SPAN, Passage, Question, passage_rows
from retention.data.question_answering import QuestionAnsweringData
from retention.data.settings import DataSettings
from retention.data.sources import Source
from retention.data.splits import SplitPlan
from retention.data.windows import TokenizedText, Windowing, question_frame
from retention.errors import Checks, DataError
from retention.metrics import CuadScore

_PREDICTIONS = 20  # spans per question, as in the official predictions
_CONTAINING = "Parties"  # questions of which a span may be longer than the clause, officially known by their ids


class CuadSpanData(QuestionAnsweringData):
    """Contracts, each with one question per kind of clause. Sizes and splits count contracts.

    A contract is cut into overlapping windows. Training sees those without the clause in question only
    ``negatives`` times as often as those with it; validation and test see all of them.
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
        stride: int,
        splits: Mapping[str, str | None],
        train_size: int | None,
        val_size: int | None,
        test_size: int | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        max_document_length: int | None = None,
        negatives: float | None = 1.0,
        categories: Sequence[str] | None = None,
        num_workers: int = 0,
    ) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            name: short name, used in messages and records.
            source_note: what the rows are, for records.
            hub: ``{path, name, revision}`` of the hub data set, or None.
            dir: local folder with ``<split>.json`` or ``<split>.json.gz``; goes before ``hub``.
            max_length: tokens per window, question and special ones included.
            max_question_length: tokens of a question; longer ones are cut and counted.
            stride: tokens between the starts of neighbouring windows.
            splits: source split per role, ``{train, val, test}``; val None = ``val_size`` contracts held out of train.
            train_size: contracts to train on, drawn by ``seed``; None = all.
            val_size: contracts to validate on, the same for every seed.
            test_size: contracts to test on, the same for every seed; None = all.
            batch_size: windows per training batch and process.
            eval_batch_size: windows per validation and test batch and process.
            seed: draws ``train_size`` contracts and orders the training batches.
            max_document_length: tokens of a contract that windows cover; the rest is cut and counted, its clauses
                still count as not found. None = whole contracts.
            negatives: training windows without the clause per window with it, drawn per contract; None = all.
            categories: kinds of clauses to ask for, as the ends of the questions' ids; None = all.
            num_workers: loader processes; 0 = load in the main one.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        checks = Checks()
        self._source = Source(dir, hub)
        self._source.check(checks)
        self._plan = SplitPlan(names=splits, train_size=train_size, val_size=val_size, test_size=test_size, seed=seed)
        self._plan.check(checks)
        listed = isinstance(categories, Sequence) and not isinstance(categories, str) and len(categories) > 0
        message = f"must be a list of kinds of clauses or null, got {categories!r}"
        checks.require(categories is None or listed, "categories", message)
        if categories is not None:
            source_note = f"{source_note}; {len(categories)} of the kinds of clauses"
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
            max_length=max_length,
            max_question_length=max_question_length,
            stride=stride,
            max_document_length=max_document_length,
        )
        super().__init__(windowing=windowing, negatives=negatives, plan=self._plan, settings=settings, checks=checks)
        self._categories = None if categories is None else tuple(categories)
        self._metric = CuadScore()

    def grade(self, passages: Sequence[Passage], found: Mapping[tuple[int, int], Found]) -> dict[str, float]:
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

    def _load(self, split: str) -> Dataset:
        contracts, source = self._contracts(split)
        passages = [self._passage(contract, f"{source}, contract {n}") for n, contract in enumerate(contracts, start=1)]
        kept = [passage for passage in passages if passage.questions]
        if not kept:
            wanted = "" if self._categories is None else f" of the categories {', '.join(self._categories)}"
            raise DataError(f"{source}: has no question{wanted}; check data.dir and task.data.categories")
        return passage_rows(kept)

    def _contracts(self, split: str) -> tuple[list[Mapping[str, Any]], str]:
        """Objects with ``title``, ``context`` and ``qas``."""
        if self._source.dir is not None:
            path = find_file(self._source.dir, [f"{split}.json", f"{split}.json.gz"], f"{split}.json or .json.gz")
            contracts: list[Mapping[str, Any]] = []
            for contract in item(read_json(path), "data", list, str(path)):
                title = item(contract, "title", str, str(path))
                contracts += [
                    {**part, "title": title} for part in item(contract, "paragraphs", list, f"{path}, {title}")
                ]
            return contracts, str(path)
        columns = ("id", "title", "context", "question", "answers")
        table = self._source.read(split, {column: column for column in columns})
        by_title: dict[str, dict[str, Any]] = {}
        for row in zip(*(table.columns[column] for column in columns), strict=True):
            identity, title, context, question, answers = row
            spans = [dict(zip(answers, entry, strict=True)) for entry in zip(*answers.values(), strict=True)]
            contract = by_title.setdefault(title, {"title": title, "context": context, "qas": []})
            contract["qas"].append({"id": identity, "question": question, "answers": spans})
        return list(by_title.values()), table.source

    def _passage(self, contract: Mapping[str, Any], place: str) -> Passage:
        require_whole_characters(contract, place)
        text = item(contract, "context", str, place)
        questions = []
        for record in item(contract, "qas", list, place):
            identity = item(record, "id", str, place)
            if self._categories is None or identity.endswith(tuple(f"__{name}" for name in self._categories)):
                questions.append(_question(record, text, f"{place}, question {identity}"))
        return Passage(id=item(contract, "title", str, place), text=text, paragraphs=[], questions=questions)


def _question(record: Mapping[str, Any], text: str, place: str) -> Question:
    spans = []
    for answer in item(record, "answers", list, place):
        clause, start = item(answer, "text", str, place), item(answer, "answer_start", int, place)
        if not clause or text[start : start + len(clause)] != clause:
            raise DataError(f"{place}: {clause!r:.60} is not at character {start} of the contract; mend the file")
        spans.append((start, start + len(clause)))
    return Question(
        id=item(record, "id", str, place),
        text=item(record, "question", str, place),
        answer_type=SPAN if spans else NONE,
        spans=spans,
        places=[],
        references=[text[first:behind] for first, behind in spans],
    )


def _prediction(passage: Passage, tokens: TokenizedText, found: Found | None) -> dict[str, Any]:
    best = [] if found is None else found.best_spans(_PREDICTIONS)
    ranges = [tokens.characters((first, last + 1)) for (first, last), _ in best]
    return {
        "texts": [passage.text[first:behind] for first, behind in ranges],
        "scores": [math.exp(min(0.0, score)) for _, score in best],
    }
