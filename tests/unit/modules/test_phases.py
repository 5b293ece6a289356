"""When training keeps all, softens, removes."""

from __future__ import annotations

from typing import Any

import pytest

from retention.errors import ConfigError
from retention.training.phases import Phases


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
def test_boundaries_belong_to_what_follows(progress: float, phase: str, anneal: float) -> None:
    assert Phases(anneal_start=0.125, anneal_end=0.5, pruning_start=0.75).at(progress) == (phase, anneal)


def test_no_annealing_is_the_full_budget_at_once() -> None:
    phases = Phases(anneal_start=0.25, anneal_end=0.25, pruning_start=1.0)
    assert phases.at(0.2) == ("warmup", 0.0)
    assert phases.at(0.25) == ("soft", 1.0)


def test_removal_can_come_before_the_budget_is_reached() -> None:
    assert Phases(anneal_end=0.5, pruning_start=0.0).at(0.25) == ("hard", 0.5)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"anneal_start": -0.1}, ["anneal_start"]),
        ({"anneal_start": 0.5, "anneal_end": 0.4}, ["anneal_end"]),
        ({"anneal_end": 1.5, "pruning_start": 2.0}, ["anneal_end", "pruning_start"]),
    ],
)
def test_boundaries_out_of_place(settings: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Phases(**settings)
    assert [problem.key for problem in caught.value.problems] == keys
