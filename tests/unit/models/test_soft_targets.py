"""Tests of distillation losses on logits by hand."""

from __future__ import annotations

import math

import pytest
import torch

from retention.models.soft_targets import binary_soft_target_losses, soft_target_loss

TEACHER = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4


def test_divergence_by_hand() -> None:
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_target_loss(torch.zeros(1, 2), TEACHER, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_temperature_softens_both_and_is_scaled_back() -> None:
    high = math.sqrt(3.0) / (1.0 + math.sqrt(3.0))
    expected = 4.0 * (high * math.log(high / 0.5) + (1 - high) * math.log((1 - high) / 0.5))
    assert soft_target_loss(torch.zeros(1, 2), TEACHER, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_mean_is_over_all_leading_axes() -> None:
    student, teacher = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    teacher[1, 2] = TEACHER
    one = soft_target_loss(torch.zeros(1, 2), TEACHER, 1.0)
    torch.testing.assert_close(soft_target_loss(student, teacher, 1.0), one / 6)


def test_constant_offset_of_logits_costs_nothing() -> None:
    assert soft_target_loss(TEACHER + 5.0, TEACHER, 1.5).item() == pytest.approx(0.0, abs=1e-6)


def test_binary_divergence_by_hand() -> None:
    teacher, student, temperature = 1.0, -2.0, 2.0
    p, q = (1 / (1 + math.exp(-value / temperature)) for value in (teacher, student))
    expected = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    losses = binary_soft_target_losses(torch.tensor([student]), torch.tensor([teacher]), temperature)
    torch.testing.assert_close(losses, torch.tensor([expected]))
