"""Calibration error, log-likelihood and Brier score worked out by hand and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, recall_score

from retention.tasks.classification.calibration import class_scores, expected_calibration_error, label_set_scores


def test_calibration_error_by_hand() -> None:
    # bins of width 1/15: 0.62 and 0.65 share (9/15, 10/15], 0.95 is alone in (14/15, 1]
    expected = (2 * abs(0.5 - 0.635) + abs(0.0 - 0.95)) / 3
    assert expected_calibration_error([0.62, 0.65, 0.95], [1, 0, 0]) == pytest.approx(expected)
    assert expected_calibration_error([0.62, 0.65, 0.95], [1, 0, 1]) < expected, "the right answer is better calibrated"


def test_bins_include_their_upper_edge_and_zero() -> None:
    assert expected_calibration_error([0.0, 1.0, 1 / 15], [0, 1, 0]) == pytest.approx((1 / 15) / 3)
    two_bins = expected_calibration_error([0.5, 0.500001], [1, 0], bins=2)
    assert two_bins == pytest.approx((0.5 + 0.500001) / 2), "0.5 is in the lower bin, so the errors do not cancel"
    assert expected_calibration_error([0.5, 0.500001], [1, 0], bins=1) < 1e-5


def test_calibrated_confidence_has_a_small_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 200_000)
    correct = generator.uniform(size=confidence.size) < confidence
    assert expected_calibration_error(confidence, correct) < 0.01
    overconfident = np.minimum(confidence + 0.2, 1.0)
    assert expected_calibration_error(overconfident, correct) > 0.1, "the control is not calibrated"


@pytest.mark.parametrize(("confidence", "correct"), [([], []), ([0.5], [1, 0])])
def test_unequal_or_missing_rows_are_refused(confidence: list[float], correct: list[int]) -> None:
    with pytest.raises(ValueError, match="equal length"):
        expected_calibration_error(confidence, correct)


def test_class_scores_equal_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    table = generator.dirichlet(np.ones(4), size=300)
    labels = generator.integers(0, 4, 300)
    scores = class_scores(table.tolist(), table.argmax(1).tolist(), labels.tolist())
    assert scores["nll"] == pytest.approx(log_loss(labels, table))
    assert scores["worst_class_recall"] == pytest.approx(min(recall_score(labels, table.argmax(1), average=None)))
    shuffled = class_scores(table.tolist(), table.argmax(1).tolist(), np.roll(labels, 1).tolist())
    assert shuffled["nll"] != pytest.approx(scores["nll"])


def test_a_probability_stored_as_zero_has_a_finite_loss() -> None:
    assert class_scores([[1.0, 0.0]], [0], [1])["nll"] == pytest.approx(-math.log(1e-6))
    assert class_scores([], [], []) == {}


def test_label_set_scores_equal_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    table, truth = generator.uniform(size=(80, 3)), generator.uniform(size=(80, 3)) < 0.4
    predicted = table > 0.5
    sets = [[row.nonzero()[0].tolist() for row in each] for each in (predicted, truth)]
    scores = label_set_scores(table.tolist(), *sets)
    columns = list(zip(truth.T, table.T, strict=True))
    assert scores["brier_per_label"] == pytest.approx(np.mean([brier_score_loss(y, p) for y, p in columns]))
    assert scores["nll_per_label"] == pytest.approx(np.mean([log_loss(y, p) for y, p in columns]))
    assert scores["worst_class_recall"] == pytest.approx(min(recall_score(truth, predicted, average=None)))


def test_labels_that_no_row_has_do_not_count_as_the_worst() -> None:
    assert label_set_scores([[0.9, 0.1], [0.8, 0.3]], [[0], [0]], [[0], [0]])["worst_class_recall"] == 1.0
    assert "worst_class_recall" not in label_set_scores([[0.2, 0.1]], [[]], [[]])
