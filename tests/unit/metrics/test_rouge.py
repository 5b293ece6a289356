"""ROUGE by hand."""

from __future__ import annotations

import pytest

from retention.tasks.summarization.metrics import Rouge, rouge_tokens


def rouge(prediction: str, reference: str) -> dict[str, float]:
    found = Rouge().compute(predictions=[prediction], references=[reference])
    assert found is not None
    return dict(found)


def test_by_hand() -> None:
    found = rouge("the cat sat", "the cat lay down")
    assert found["rouge1"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["rouge2"] == pytest.approx(2 * 1 / (2 + 3))
    assert found["rougeLsum"] == pytest.approx(2 * 2 / (3 + 4))


def test_lines_are_the_sentences_of_rouge_lsum() -> None:
    reference = "first things come\nsecond things follow"
    assert rouge("second things follow\nfirst things come", reference)["rougeLsum"] == pytest.approx(1.0)
    one_line = rouge("second things follow first things come", reference.replace("\n", " "))["rougeLsum"]
    assert one_line == pytest.approx(0.5), "as one sentence the order counts"


def test_words_are_stemmed_and_punctuation_is_left_out() -> None:
    assert rouge("Testing, the MICE!", "tests the mice")["rouge2"] == pytest.approx(1.0)
    assert rouge_tokens("β-cells (n=12): is running ran\x00") == ["cell", "n", "12", "is", "run", "ran"]


@pytest.mark.parametrize(("prediction", "reference"), [("", "some words"), ("some words", "!?"), ("", "")])
def test_nothing_to_count_is_zero(prediction: str, reference: str) -> None:
    assert rouge(prediction, reference) == {"rouge1": 0.0, "rouge2": 0.0, "rougeLsum": 0.0}


def test_the_mean_over_rows() -> None:
    found = Rouge().compute(predictions=["a b", "c"], references=["a b", "d"])
    assert found == {"rouge1": 0.5, "rouge2": 0.5, "rougeLsum": 0.5}
