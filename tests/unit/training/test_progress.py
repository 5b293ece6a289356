"""Tests of the position in a training that steps or time end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.callbacks import Timer
from torch import nn

from retention.training.optimization import AdamWSettings
from retention.training.progress import TrainingProgress


def trainer(*callbacks: Any, steps: float = 100) -> Any:
    """Return what the progress reads of a trainer."""
    strategy = SimpleNamespace(broadcast=lambda value: value)
    return SimpleNamespace(callbacks=list(callbacks), estimated_stepping_batches=steps, strategy=strategy)


def timer_at(elapsed: float, monkeypatch: pytest.MonkeyPatch) -> Timer:
    """Return a timer of 60 seconds of which some have passed."""
    timer = Timer(duration={"seconds": 60})
    monkeypatch.setattr(timer, "time_elapsed", lambda stage="train": elapsed)
    return timer


def test_position_is_number_of_steps_without_a_time_limit() -> None:
    progress = TrainingProgress()
    progress.update(trainer(Timer(duration=None)))
    assert [progress.position(step, 100) for step in (0, 37, 100)] == [0, 37, 100]
    assert progress.steps(trainer()) == 100


@pytest.mark.parametrize(("elapsed", "position"), [(0.0, 10), (3.0, 10), (30.0, 50), (90.0, 100)])
def test_position_follows_the_clock_where_time_ends_training(
    elapsed: float, position: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = TrainingProgress()
    progress.update(trainer(timer_at(elapsed, monkeypatch)))
    assert progress.position(10, 100) == pytest.approx(position)


def test_training_without_limit_of_steps_has_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, endless = TrainingProgress(), trainer(timer_at(45.0, monkeypatch), steps=float("inf"))
    steps = progress.steps(endless)
    progress.update(endless)
    assert progress.position(20, steps) / steps == pytest.approx(0.75)
    settings = AdamWSettings(lr=1.0, policy_lr=1.0, warmup=0.0)
    layer = nn.Linear(2, 1)
    built = settings.build(layer.named_parameters(), nn.Identity(), steps, lambda step: progress.position(step, steps))
    assert built["lr_scheduler"]["scheduler"].get_last_lr()[0] == pytest.approx(0.25, abs=1e-3)
