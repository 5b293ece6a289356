"""Tests of the agreement of a pruned classifier with the unpruned one, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retention.tasks.classifier_distillation.agreement import (
    class_agreement,
    class_divergence,
    label_agreement,
    label_divergence,
    order_agreement,
    root_mean_square_error,
)


def test_classes_agree_where_the_largest_logit_is_the_same() -> None:
    assert class_agreement([[1.0, 2.0], [3.0, 0.0]], [[0.0, 9.0], [0.0, 1.0]]).tolist() == [1.0, 0.0]


def test_labels_agree_one_by_one() -> None:
    assert label_agreement([[1.0, -2.0, 3.0]], [[5.0, 2.0, 0.1]]).tolist() == pytest.approx([2 / 3])


def test_order_counts_pairs_that_both_order_alike() -> None:
    ours, theirs = [[1.0], [2.0], [3.0], [3.0]], [[1.0], [3.0], [2.0], [5.0]]
    shares = order_agreement(ours, theirs)
    # pairs: (0,1) (0,2) (0,3) alike, (1,2) not, (1,3) alike, (2,3) tied by one: half
    assert shares.tolist() == pytest.approx([1.0, 2 / 3, 1.5 / 3, 2.5 / 3])
    assert shares.mean() == pytest.approx(4.5 / 6)


def test_order_is_the_same_for_many_rows_as_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(40, 1)), generator.normal(size=(40, 1))
    whole = order_agreement(ours.tolist(), theirs.tolist())
    monkeypatch.setattr("retention.tasks.classifier_distillation.agreement._CHUNK", 7)
    assert order_agreement(ours.tolist(), theirs.tolist()).tolist() == whole.tolist()
    flat = list(zip(ours[:, 0].tolist(), theirs[:, 0].tolist(), strict=True))
    alike = [(a > b) == (c > d) for i, (a, c) in enumerate(flat) for j, (b, d) in enumerate(flat) if i != j]
    assert whole.mean() == pytest.approx(np.mean(alike))
    assert order_agreement([[1.0]], [[2.0]]).tolist() == [1.0]


def test_distances_are_zero_for_equal_logits_only() -> None:
    same, other = [[1.0, 2.0]], [[2.0, 1.0]]
    probability = 1 / (1 + np.exp(1.0))
    expected = (1 - probability) * 1.0 - probability * 1.0  # log ratio of the two classes is 1 in both directions
    assert class_divergence(same, same) == pytest.approx(0.0, abs=1e-7)
    assert class_divergence(other, same) == pytest.approx(expected, abs=1e-6)
    assert label_divergence(same, same) == pytest.approx(0.0, abs=1e-7)
    assert label_divergence(other, same) > 0.0
    assert root_mean_square_error([[1.0], [3.0]], [[1.0], [1.0]]) == pytest.approx(2**0.5)
