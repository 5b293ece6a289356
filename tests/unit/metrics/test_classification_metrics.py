"""F1 by hand: one class per row, and sets of classes."""

from __future__ import annotations

import pytest

from retention.tasks.classification.metrics import LabelSetF1, MacroF1


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [
        ([0, 0, 1, 2], [0, 1, 1, 2], (2 / 3 + 2 / 3 + 1) / 3),
        ([0, 0, 0, 0], [0, 0, 0, 1], (6 / 7 + 0) / 2),  # a class never predicted counts as 0
        ([5, 0], [0, 0], (2 / 3 + 0) / 2),  # so does one that never occurs
        ([3], [3], 1.0),  # classes that neither occur nor are predicted have no F1
        ([1, 0], [0, 1], 0.0),
    ],
)
def test_macro_f1(predictions: list[int], references: list[int], expected: float) -> None:
    assert MacroF1().compute(predictions=predictions, references=references) == {"macro_f1": pytest.approx(expected)}


def test_f1_of_sets() -> None:
    predictions = [[0], [0, 1], [2], [1, 1]]
    references = [[0, 2], [1], [2], [3]]
    # class 0: 1 right, 2 predicted, 1 meant; class 1: 1, 2, 1; class 2: 1, 1, 2; class 3: 0, 0, 1
    found = LabelSetF1().compute(predictions=predictions, references=references)
    assert found == {
        "micro_f1": pytest.approx(2 * 3 / (5 + 5)),
        "macro_f1": pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 0) / 4),
    }


def test_an_empty_set_predicts_nothing() -> None:
    assert LabelSetF1().compute(predictions=[[], [4]], references=[[1], [4]]) == {
        "micro_f1": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(0.5),
    }


def test_one_class_per_row_is_a_set_of_one() -> None:
    predictions, references = [0, 2, 2, 1, 0], [0, 1, 2, 1, 2]
    sets = LabelSetF1().compute(
        predictions=[[each] for each in predictions], references=[[each] for each in references]
    )
    assert sets is not None
    assert sets["micro_f1"] == pytest.approx(3 / 5), "micro-F1 of single labels is their accuracy"
    assert MacroF1().compute(predictions=predictions, references=references) == {"macro_f1": sets["macro_f1"]}
