"""Tests of the embedding losses and metrics against their definitions, with negative controls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from retention.tasks.embedding.losses import cosine_loss, cosine_matrix, neighbor_loss, relational_loss
from retention.tasks.embedding.metrics import row_cosines, similarity_correlation


def vectors(seed: int, count: int = 6, width: int = 5) -> Tensor:
    """Return random vectors [count, width]."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def rotation(width: int = 5) -> Tensor:
    """Return a random orthogonal matrix."""
    return torch.linalg.qr(vectors(9, width, width)).Q


def test_cosine_loss_is_one_minus_cosine() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    assert float(cosine_loss(student, teacher)) == pytest.approx((0.0 + 1.0 - math.sqrt(0.5)) / 2)


def test_cosine_loss_ignores_lengths_and_sees_rotations() -> None:
    teacher = vectors(0)
    assert float(cosine_loss(3.0 * teacher, teacher)) == pytest.approx(0.0, abs=1e-6)
    assert float(cosine_loss(teacher @ rotation(), teacher)) > 0.1
    assert float(cosine_loss(-teacher, teacher)) == pytest.approx(2.0)


def test_relational_loss_is_mean_over_pairs() -> None:
    student, teacher = vectors(1, 3), vectors(2, 3)
    differences = (cosine_matrix(student) - cosine_matrix(teacher)).square()
    expected = (differences[0, 1] + differences[0, 2] + differences[1, 2]) / 3
    torch.testing.assert_close(relational_loss(student, teacher), expected)
    assert float(expected) > 0.01


@pytest.mark.parametrize("loss", ["relational", "neighbors"])
def test_losses_of_pairs_ignore_rotations_and_see_permutations(loss: str) -> None:
    teacher = vectors(3)

    def value(student: Tensor) -> float:
        return float(
            relational_loss(student, teacher) if loss == "relational" else neighbor_loss(student, teacher, 0.1)
        )

    assert value(2.0 * teacher @ rotation()) == pytest.approx(0.0, abs=1e-5)
    assert value(teacher.roll(1, dims=0)) > 0.05


def test_neighbor_loss_is_divergence_over_other_rows() -> None:
    student, teacher = vectors(4, 3), vectors(5, 3)
    expected = 0.0
    for row in range(3):
        others = [other for other in range(3) if other != row]
        p, q = ((cosine_matrix(each)[row, others] / 0.5).softmax(-1) for each in (teacher, student))
        expected += float((p * (p / q).log()).sum()) / 3
    assert float(neighbor_loss(student, teacher, 0.5)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0.001


@pytest.mark.parametrize("loss", [relational_loss, lambda a, b: neighbor_loss(a, b, 0.1)])
def test_single_row_has_no_pairs(loss: object) -> None:
    student = vectors(6, 1).requires_grad_()
    value = loss(student, vectors(7, 1))  # type: ignore[operator]
    value.backward()
    assert value.item() == 0.0 and torch.equal(student.grad, torch.zeros_like(student))


def test_losses_train_student_towards_teacher() -> None:
    teacher, student = vectors(8), vectors(9).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    before = similarity_correlation(student.tolist(), teacher.tolist())
    for _ in range(200):
        optimizer.zero_grad()
        (cosine_loss(student, teacher) + relational_loss(student, teacher)).backward()
        optimizer.step()
    assert before < 0.9
    assert row_cosines(student.tolist(), teacher.tolist()).min() > 0.99
    assert similarity_correlation(student.tolist(), teacher.tolist()) > 0.99


def test_similarity_correlation_ignores_rotations_and_sees_permutations() -> None:
    teacher = vectors(10, 8)
    assert similarity_correlation((teacher @ rotation()).tolist(), teacher.tolist()) == pytest.approx(1.0, abs=1e-6)
    assert abs(similarity_correlation(teacher.flip(0).tolist(), teacher.tolist())) < 0.9


def test_similarity_correlation_needs_three_different_rows() -> None:
    assert math.isnan(similarity_correlation(vectors(0, 2).tolist(), vectors(1, 2).tolist()))
    assert math.isnan(similarity_correlation([[1.0, 0.0]] * 4, vectors(1, 4, 2).tolist()))


def test_row_cosine_of_zero_vector_is_zero() -> None:
    assert row_cosines([[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]) == pytest.approx([0.0, 1.0])
