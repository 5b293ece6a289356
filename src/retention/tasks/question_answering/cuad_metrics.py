"""Metrics of CUAD's span track, finding clauses in contracts (Hendrycks et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from retention.report.corpus_metrics import Floats, average_precision, detection_counts, precision_recall
from retention.tasks.metric import TaskMetric

_OVERLAP = 0.5  # lowest share of common words at which a span counts as the clause


class CuadScore(TaskMetric):
    """Area under the precision-recall curve over all questions, and precision at 80 % and 90 % recall, in [0, 1].

    A prediction is ``{"texts": [...], "scores": [...]}``, the spans proposed for one question, scores in [0, 1]; a
    reference is ``{"texts": [...], "substring": bool}``, the true clauses (none = the contract has no such clause). A
    span matches a clause if they share at least half of their words, or if it contains the clause where ``substring``
    is set (party names). At a threshold, spans with a higher score are predicted: a matched clause is a true positive,
    an unmatched clause a false negative, a span that matches no clause a false positive. Empty spans do not count. The
    curve has one point per threshold (0.99, 0.98, ..., 0.01, 0.001, 0) and starts at precision 1; precision is made
    monotonically decreasing in recall.
    """

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Area under the precision-recall curve and precision at fixed recall, each in [0, 1].",
            citation="",
            inputs_description="predictions: texts, scores; references: texts, substring; one per question",
            features=datasets.Features(
                {
                    "predictions": {"texts": texts, "scores": datasets.List(datasets.Value("float64"))},
                    "references": {"texts": texts, "substring": datasets.Value("bool")},
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], **_: Any
    ) -> dict[str, float]:
        clause_scores: list[float] = []  # per clause, the highest score of a span that matches it; -1 = none does
        false_scores: list[float] = []  # scores of spans that match no clause
        for prediction, reference in zip(predictions, references, strict=True):
            matched, unmatched = match_clauses(prediction, reference)
            clause_scores += matched
            false_scores += unmatched
        counts = detection_counts(clause_scores, false_scores)
        recall, precision = precision_recall(counts)
        return {
            "aupr": float(average_precision(counts)),
            "precision_at_80_recall": _precision_at(0.8, precision, recall),
            "precision_at_90_recall": _precision_at(0.9, precision, recall),
        }


def word_overlap(first: str, second: str) -> float:
    """Compute the Jaccard index of the words of two texts, in [0, 1].

    Case and the marks ``. , ; :`` are ignored, ``/`` separates words.
    """
    a, b = _words(first), _words(second)
    return len(a & b) / len(a | b) if a | b else 0.0


def _words(text: str) -> set[str]:
    for mark in ".,;:":
        text = text.replace(mark, "")
    return set(text.lower().replace("/", " ").split())


def match_clauses(prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return the best score of a span per clause (-1 = no span), and the scores of spans that match no clause.

    Args:
        prediction: of one question, see ``CuadScore``.
        reference: likewise.
    """
    best, unmatched = [-1.0] * len(reference["texts"]), []
    proposed: dict[str, float] = {}
    for text, score in zip(prediction["texts"], prediction["scores"], strict=True):
        if text:
            proposed[text] = max(score, proposed.get(text, 0.0))
    for text, score in proposed.items():
        hits = [
            index
            for index, clause in enumerate(reference["texts"])
            if word_overlap(clause, text) >= _OVERLAP or (reference["substring"] and clause in text)
        ]
        for index in hits:
            best[index] = max(best[index], score)
        if not hits:
            unmatched.append(score)
    return best, unmatched


def _precision_at(target: float, precision: Floats, recall: Floats) -> float:
    """Return the precision where recall first reaches ``target``; 0 where it never does."""
    reached = np.flatnonzero(recall >= target)
    return float(precision[reached[0]]) if len(reached) else 0.0
