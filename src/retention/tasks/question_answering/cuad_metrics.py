"""The scores of CUAD's span track: clauses to find in contracts (Hendrycks et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

_OVERLAP = 0.5  # share of common words from which on a prediction is the clause
_THRESHOLDS = np.concatenate([np.arange(0.99, 0.0, -0.01), [0.001, 0.0]])

Floats = NDArray[np.float64]


class CuadScore(evaluate.Metric):
    """Area under the precision-recall curve over all questions, and precision at 80 % and 90 % recall, in [0, 1].

    A prediction is ``{"texts": [...], "scores": [...]}``, the spans proposed for one question, scores in [0, 1]; a
    reference is ``{"texts": [...], "substring": bool}``, the clauses to be found (none = the contract has no such
    clause). A span is a clause if they share at least half of their words, or contains it where ``substring`` is set
    (party names). At a threshold, spans with a higher score are predicted: a clause found is a true positive, a clause
    not found a false negative, a span that is no clause a false positive. Empty spans do not count. The curve has one
    point per threshold (0.99, 0.98, ..., 0.01, 0.001, 0) and starts at precision 1; precision is made to fall with
    recall.
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
        found: list[float] = []  # per clause, the highest score of a span that is this clause; -1 = never found
        wrong: list[float] = []  # scores of spans that are no clause
        for guess, truth in zip(predictions, references, strict=True):
            _match(guess, truth, found, wrong)
        recall, precision = _curve(np.array(found), np.array(wrong))
        return {
            "aupr": float(np.trapezoid(precision, recall)),
            "precision_at_80_recall": _precision_at(0.8, precision, recall),
            "precision_at_90_recall": _precision_at(0.9, precision, recall),
        }


def word_overlap(first: str, second: str) -> float:
    """Jaccard index of the words of two texts, in [0, 1]; without ``. , ; :`` and case, ``/`` separates words."""
    one, other = _words(first), _words(second)
    return len(one & other) / len(one | other) if one | other else 0.0


def _words(text: str) -> set[str]:
    for mark in ".,;:":
        text = text.replace(mark, "")
    return set(text.lower().replace("/", " ").split())


def _match(guess: Mapping[str, Any], truth: Mapping[str, Any], found: list[float], wrong: list[float]) -> None:
    best = [-1.0] * len(truth["texts"])
    proposed: dict[str, float] = {}
    for text, score in zip(guess["texts"], guess["scores"], strict=True):
        if text:
            proposed[text] = max(score, proposed.get(text, 0.0))
    for text, score in proposed.items():
        hits = [
            place
            for place, clause in enumerate(truth["texts"])
            if word_overlap(clause, text) >= _OVERLAP or (truth["substring"] and clause in text)
        ]
        for place in hits:
            best[place] = max(best[place], score)
        if not hits:
            wrong.append(score)
    found.extend(best)


def _curve(found: Floats, wrong: Floats) -> tuple[Floats, Floats]:
    """Recall and precision from the highest threshold to the lowest, with (0, 1) in front."""
    hits = (found[None, :] > _THRESHOLDS[:, None]).sum(1)
    misses = (wrong[None, :] > _THRESHOLDS[:, None]).sum(1)
    recall = np.concatenate([[0.0], hits / max(len(found), 1)])
    precision = np.concatenate([[1.0], hits / np.maximum(hits + misses, 1)])
    falling: Floats = np.maximum.accumulate(precision[::-1])[::-1]
    return recall, falling


def _precision_at(wanted: float, precision: Floats, recall: Floats) -> float:
    """Precision where recall first reaches ``wanted``; 0 where it never does."""
    reached = np.flatnonzero(recall >= wanted)
    return float(precision[reached[0]]) if len(reached) else 0.0
