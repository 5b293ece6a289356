"""Metrics of SQuAD 1.1 and 2.0: exact match and F1 of answers as texts (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import datasets
import evaluate

from retention.data.answer_text import answer_scores, answer_words
from retention.tasks.metric import TaskMetric


class SquadScore(TaskMetric):
    """Exact match and F1 as in SQuAD's official evaluation script (version 2.0), in [0, 1].

    A prediction is ``{"text": text}``, empty = no answer; a reference is ``{"texts": [...]}``, the answers of all
    annotators, empty = the question has no answer. A question counts with its best reference. Without an answer, only
    the empty prediction scores. Questions whose answers all are articles or punctuation count as unanswerable, as in
    the script.

    - ``f1``, ``exact_match``: means over all questions.
    - ``f1_answerable``, ``exact_match_answerable``, ``f1_unanswerable``: by kind, each where there are such questions.
    - ``count_answerable``, ``count_unanswerable``: number of questions.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Exact match and F1 of SQuAD, each in [0, 1].",
            citation="",
            inputs_description="predictions: text; references: texts; one per question",
            features=datasets.Features({"predictions": {"text": text}, "references": {"texts": datasets.List(text)}}),
        )

    def _compute(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], **_: Any
    ) -> dict[str, float]:
        scores: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for prediction, reference in zip(predictions, references, strict=True):
            score = answer_scores(prediction["text"], reference["texts"])
            scores[any(map(answer_words, reference["texts"]))].append(score)
        everything = scores[True] + scores[False]
        result = {"f1": fmean(f1 for _, f1 in everything), "exact_match": fmean(exact for exact, _ in everything)}
        if scores[True]:
            result["f1_answerable"] = fmean(f1 for _, f1 in scores[True])
            result["exact_match_answerable"] = fmean(exact for exact, _ in scores[True])
        if scores[False]:
            result["f1_unanswerable"] = fmean(f1 for _, f1 in scores[False])
        counts = {"count_answerable": len(scores[True]), "count_unanswerable": len(scores[False])}
        return result | {name: float(count) for name, count in counts.items()}
