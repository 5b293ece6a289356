"""CUAD's metrics against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from retention.tasks.question_answering.cuad_metrics import CuadScore, word_overlap

Case = tuple[dict[str, float], list[str]]


def score(*cases: Case, substring: bool = False) -> dict[str, float]:
    predictions: list[Any] = [{"texts": list(given), "scores": list(given.values())} for given, _ in cases]
    return CuadScore().compute(
        predictions=predictions, references=[{"texts": truth, "substring": substring} for _, truth in cases]
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("This Agreement, dated:", "this agreement dated", 1.0),
        ("a b c d", "c d", 0.5),
        ("profit/loss", "loss", 0.5),
        ("one one two", "one", 0.5),
        ("x", "y", 0.0),
        (".", ";", 0.0),
    ],
)
def test_word_overlap(first: str, second: str, expected: float) -> None:
    assert word_overlap(first, second) == expected


def test_perfect_predictions_score_one() -> None:
    scores = score(({"governing law of Utah": 0.995}, ["governing law of utah"]), ({}, []))
    assert scores == {"aupr": 1.0, "precision_at_80_recall": 1.0, "precision_at_90_recall": 1.0}


def test_precision_recall_curve_by_hand() -> None:
    # at > 0.9: one clause of two, no mistake; at > 0.5: both clauses, one mistake (precision 2 / 3)
    scores = score(({"p q": 0.95}, ["p q"]), ({"r s": 0.55, "z": 0.65}, ["r s"]))
    # (0, 1) - (0.5, 1) - (1, 2 / 3); between 0.65 and 0.55 precision is 1 / 2, which the later 2 / 3 lifts
    assert scores["aupr"] == pytest.approx(0.5 * 1.0 + 0.25 * (2 / 3 + 2 / 3), abs=1e-9)
    assert scores["precision_at_80_recall"] == pytest.approx(2 / 3)


def test_score_equal_to_the_threshold_is_not_predicted() -> None:
    assert score(({"p q": 0.0}, ["p q"]))["aupr"] == 0.0


def test_half_of_the_words_match_and_substrings_only_for_parties() -> None:
    long = "the parties are Acme Corporation and somebody else altogether"
    assert score(({"b c": 0.9}, ["a b c d"]))["aupr"] == pytest.approx(1.0)
    assert score(({long: 0.9}, ["Acme Corporation"]))["aupr"] == 0.0
    assert score(({long: 0.9}, ["Acme Corporation"]), substring=True)["aupr"] == pytest.approx(1.0)


def test_false_spans_lower_precision_only() -> None:
    scores = score(({"p": 0.9}, ["p"]), ({"q": 0.95, "": 0.99}, []))
    assert scores["precision_at_90_recall"] == 0.5, "one mistake; the empty span is none"
    # nothing is predicted above 0.95, and what is right comes last: precision 1 / 2 all the way
    assert scores["aupr"] == pytest.approx(0.5 + 0.0, abs=1e-9)


def test_precision_at_unreached_recall_is_zero() -> None:
    scores = score(({"p": 0.9}, ["p", "q", "r"]))
    assert scores["precision_at_80_recall"] == 0.0
    assert scores["aupr"] == pytest.approx(1 / 3)


def test_no_clauses_or_no_spans_score_zero() -> None:
    assert score(({"p": 0.9}, []))["aupr"] == 0.0
    assert score(({}, ["p"]))["aupr"] == 0.0
    assert score(({}, []))["aupr"] == 0.0
