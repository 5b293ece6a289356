"""QASPER's metrics against cases worked out by hand."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from retention.data.answer_text import answer_words, token_f1
from retention.tasks.question_answering.qasper_metrics import QasperScore, gold_text, paragraph_f1


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a metric must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def answer(
    text: str, kind: str = "extractive", evidence: tuple[str, ...] = (), has_evidence: bool = True
) -> dict[str, Any]:
    return {"text": text, "kind": kind, "evidence": list(evidence), "evidence_known": has_evidence}


def score(*cases: tuple[str | None, list[str], list[dict[str, Any]]]) -> dict[str, float]:
    predictions = [
        {"answered": text is not None, "answer": text or "", "evidence": evidence} for text, evidence, _ in cases
    ]
    return QasperScore().compute(predictions=predictions, references=[{"answers": given} for *_, given in cases])


def test_answer_words_drop_case_punctuation_and_articles() -> None:
    assert answer_words("The state-of-the-art, a  BERT (An...)!") == ["stateoftheart", "bert"]
    assert answer_words("the a an") == []


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the BERT model", "BERT", 2 / 3),  # 1 of 2 words, 1 of 1
        ("a b b", "b b b", 0.8),  # 'a' is an article: 2 of 2, 2 of 3
        ("x", "y", 0.0),
        ("the", "a", 0.0),  # nothing is left of both
        ("Üñï\u0007 β", "üñï\u0007 \u0392", 1.0),
    ],
)
def test_token_f1(prediction: str, reference: str, expected: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(expected)


def test_best_annotator_counts() -> None:
    scores = score(("red wine", [], [answer("white wine bottle"), answer("red wine glass", "abstractive")]))
    assert scores["answer_f1"] == pytest.approx(0.8)  # 2 of 2, 2 of 3; the other one 1 of 2, 1 of 3
    assert scores["extractive_f1"] == pytest.approx(0.4), "the extractive subset has the extractive reference alone"
    assert scores["extractive_em"] == 0.0
    assert scores["count_extractive"] == 1.0 and scores["f1_extractive"] == pytest.approx(0.8), "kind of the first"


def test_kinds_do_not_depend_on_the_prediction() -> None:
    given = [answer("Yes", "boolean"), answer("Unanswerable", "unanswerable"), answer("No", "boolean")]
    scores = score(("Unanswerable", [], given), ("yes", [], [answer("Yes", "boolean")]))
    assert (scores["count_boolean"], scores["count_unanswerable"]) == (2.0, 0.0)
    assert scores["f1_boolean"] == scores["answer_f1"] == 1.0
    assert "f1_unanswerable" not in scores and "extractive_f1" not in scores


def test_missing_prediction_scores_zero() -> None:
    scores = score((None, [], [answer("Unanswerable", "unanswerable")]), ("b", [], [answer("b")]))
    assert scores["answer_f1"] == scores["evidence_f1"] == 0.5
    assert scores["extractive_em"] == 1.0


def test_evidence_f1() -> None:
    figure = "FLOAT SELECTED: Table 1"
    scores = score(
        ("x", ["p1", "p2"], [answer("y", evidence=("p2", "p3", figure)), answer("y", evidence=("p9",))]),
        ("x", [], [answer("y", evidence=(figure,))]),
        ("x", ["p1"], [answer("y", has_evidence=False)]),
    )
    assert scores["count_evidence"] == 2.0, "questions without recorded evidence are not scored"
    assert scores["evidence_f1"] == pytest.approx((0.4 + 0.0) / 2)
    assert scores["text_evidence_f1"] == pytest.approx((0.5 + 1.0) / 2)


def test_repeated_paragraphs_lower_precision() -> None:
    assert paragraph_f1([], []) == 1.0 and paragraph_f1([], ["p"]) == 0.0
    assert paragraph_f1(["p", "p"], ["p"]) == pytest.approx(2 / 3), "a paragraph named twice costs precision"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"unanswerable": True, "extractive_spans": ["x"]}, ("unanswerable", "Unanswerable")),
        ({"extractive_spans": ["x", "y"], "yes_no": True}, ("extractive", "x, y")),
        ({"free_form_answer": "because", "yes_no": False}, ("abstractive", "because")),
        ({"yes_no": True}, ("boolean", "Yes")),
        ({"yes_no": False}, ("boolean", "No")),
    ],
)
def test_gold_strings(given: dict[str, Any], expected: tuple[str, str]) -> None:
    empty = {"unanswerable": False, "extractive_spans": [], "free_form_answer": "", "yes_no": None}
    assert gold_text(empty | given) == expected


def test_empty_answer_raises() -> None:
    with pytest.raises(ValueError, match="neither a span"):
        gold_text({"unanswerable": False, "extractive_spans": [], "free_form_answer": "", "yes_no": None})
