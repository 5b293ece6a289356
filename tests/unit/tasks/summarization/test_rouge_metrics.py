"""ROUGE against cases worked out by hand."""

from __future__ import annotations

import pytest

from retention.tasks.summarization.metrics import Rouge, rouge_tokens


def rouge(prediction: str, reference: str) -> dict[str, float]:
    scores = Rouge().compute(predictions=[prediction], references=[reference])
    assert scores is not None
    return dict(scores)


def test_scores_by_hand() -> None:
    scores = rouge("the cat sat", "the cat lay down")
    assert scores["rouge1"] == pytest.approx(2 * 2 / (3 + 4))
    assert scores["rouge2"] == pytest.approx(2 * 1 / (2 + 3))
    assert scores["rougeLsum"] == pytest.approx(2 * 2 / (3 + 4))


def test_rouge_lsum_treats_lines_as_sentences() -> None:
    reference = "first things come\nsecond things follow"
    assert rouge("second things follow\nfirst things come", reference)["rougeLsum"] == pytest.approx(1.0)
    one_line = rouge("second things follow first things come", reference.replace("\n", " "))["rougeLsum"]
    assert one_line == pytest.approx(0.5), "as one sentence the order counts"


def test_words_are_stemmed_and_punctuation_is_left_out() -> None:
    assert rouge("Testing, the MICE!", "tests the mice")["rouge2"] == pytest.approx(1.0)
    assert rouge_tokens("β-cells (n=12): is running ran\x00") == ["cell", "n", "12", "is", "run", "ran"]


@pytest.mark.parametrize(("prediction", "reference"), [("", "some words"), ("some words", "!?"), ("", "")])
def test_texts_without_words_score_zero(prediction: str, reference: str) -> None:
    assert rouge(prediction, reference) == {"rouge1": 0.0, "rouge2": 0.0, "rougeLsum": 0.0}


def test_scores_are_means_over_rows() -> None:
    scores = Rouge().compute(predictions=["a b", "c"], references=["a b", "d"])
    assert scores == {"rouge1": 0.5, "rouge2": 0.5, "rougeLsum": 0.5}
