"""F1 worked out by hand and by an independent implementation: one class per row, and sets of classes."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from retention.tasks.classification.metrics import Accuracy, LabelSetF1, MacroF1


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


def test_micro_and_macro_f1_of_sets() -> None:
    predictions = [[0], [0, 1], [2], [1, 1]]
    references = [[0, 2], [1], [2], [3]]
    # class 0: 1 right, 2 predicted, 1 labelled; class 1: 1, 2, 1; class 2: 1, 1, 2; class 3: 0, 0, 1
    scores = LabelSetF1().compute(predictions=predictions, references=references)
    assert scores == {
        "micro_f1": pytest.approx(2 * 3 / (5 + 5)),
        "macro_f1": pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 0) / 4),
    }


def test_empty_sets_predict_nothing() -> None:
    assert LabelSetF1().compute(predictions=[[], [4]], references=[[1], [4]]) == {
        "micro_f1": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(0.5),
    }


def test_one_class_per_row_equals_sets_of_one() -> None:
    predictions, references = [0, 2, 2, 1, 0], [0, 1, 2, 1, 2]
    sets = LabelSetF1().compute(
        predictions=[[each] for each in predictions], references=[[each] for each in references]
    )
    assert sets is not None
    assert sets["micro_f1"] == pytest.approx(3 / 5), "micro-F1 of single labels is their accuracy"
    single = MacroF1().compute(predictions=predictions, references=references)
    assert single == {"macro_f1": pytest.approx(sets["macro_f1"], abs=1e-12)}


def counted_f1(predictions: list[set[int]], references: list[set[int]]) -> tuple[float, float]:
    """Compute micro- and macro-F1 from counts of (row, class) pairs."""
    right: Counter[int] = Counter()
    occurrences: Counter[int] = Counter()
    for predicted, expected in zip(predictions, references, strict=True):
        right.update(predicted & expected)
        occurrences.update(predicted)
        occurrences.update(expected)
    by_class = [2 * right[label] / count for label, count in occurrences.items()]
    return 2 * right.total() / max(occurrences.total(), 1), sum(by_class) / max(len(by_class), 1)


@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_scores_equal_counted_pairs(num_classes: int) -> None:
    rng = random.Random(num_classes)
    for _ in range(20):
        rows = rng.randint(1, 30)
        single = [[rng.randrange(num_classes) for _ in range(rows)] for _ in range(2)]
        accuracy = Accuracy().compute(predictions=single[0], references=single[1])
        hits = sum(predicted == expected for predicted, expected in zip(*single, strict=True))
        assert accuracy == {"accuracy": pytest.approx(hits / rows, abs=1e-12)}
        macro = MacroF1().compute(predictions=single[0], references=single[1])
        _, expected_macro = counted_f1(*([{label} for label in labels] for labels in single))
        assert macro == {"macro_f1": pytest.approx(expected_macro, abs=1e-12)}
        sets = [[rng.choices(range(num_classes), k=rng.randint(0, 3)) for _ in range(rows)] for _ in range(2)]
        micro_f1, macro_f1 = counted_f1(*([set(labels) for labels in side] for side in sets))
        assert LabelSetF1().compute(predictions=sets[0], references=sets[1]) == {
            "micro_f1": pytest.approx(micro_f1, abs=1e-12),
            "macro_f1": pytest.approx(macro_f1, abs=1e-12),
        }


def test_rows_without_any_class_score_zero() -> None:
    assert LabelSetF1().compute(predictions=[[]], references=[[]]) == {"micro_f1": 0.0, "macro_f1": 0.0}
