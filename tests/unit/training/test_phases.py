"""Tests of the phases of training."""

from __future__ import annotations

from typing import Any

import pytest

from retention.errors import ConfigError
from retention.training.phases import TrainingPhases


@pytest.mark.parametrize(
    ("progress", "phase", "anneal"),
    [
        (0.0, "warmup", 0.0),
        (0.1249, "warmup", 0.0),
        (0.125, "soft", 0.0),
        (0.3125, "soft", 0.5),
        (0.5, "soft", 1.0),
        (0.7499, "soft", 1.0),
        (0.75, "hard", 1.0),
        (1.0, "hard", 1.0),
    ],
)
def test_boundary_belongs_to_next_phase(progress: float, phase: str, anneal: float) -> None:
    phases = TrainingPhases(anneal_start=0.125, anneal_end=0.5, pruning_start=0.75)
    assert phases.at(progress) == (phase, anneal)


def test_zero_annealing_width_gives_full_budget_at_once() -> None:
    phases = TrainingPhases(anneal_start=0.25, anneal_end=0.25, pruning_start=1.0)
    assert phases.at(0.2) == ("warmup", 0.0)
    assert phases.at(0.25) == ("soft", 1.0)


def test_pruning_may_start_before_annealing_ends() -> None:
    assert TrainingPhases(anneal_end=0.5, pruning_start=0.0).at(0.25) == ("hard", 0.5)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"anneal_start": -0.1}, "anneal_start"),
        ({"anneal_start": 0.5, "anneal_end": 0.4}, "anneal_end"),
        ({"anneal_end": 1.5}, "anneal_end"),
        ({"pruning_start": 2.0}, "pruning_start"),
    ],
)
def test_invalid_boundary_raises(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingPhases(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]
