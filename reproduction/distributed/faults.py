"""Inject faults into runs: those that a check must notice, signals, and an error on one rank."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from retention.data.base import RetentionData
from retention.errors import TrainingError
from retention.training import evaluation, module
from retention.training.budget_sampling import BudgetSampling

_STEP = 2  # training step with the signal or the error, from 1
MESSAGE = "injected error of rank 1"


def rank() -> int:
    """Return the rank of this process, as launchers set it in its environment."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def _each_rank_for_itself() -> Any:
    return mock.patch.object(module.RetentionModule, "all_gather", lambda self, value: value)


def _rows_of_each_rank() -> Any:
    return mock.patch.object(evaluation, "_gather", lambda trainer, parts: parts)


def _state_of_rank_0() -> Any:
    return mock.patch.object(module, "state_of_rank", lambda states, rank: states[0])


def _position_in_epoch_lost() -> Any:
    return mock.patch.object(RetentionData, "load_state_dict", lambda self, state_dict: None)


def _budgets_of_each_rank() -> Any:
    draw = BudgetSampling.draw
    return mock.patch.object(BudgetSampling, "draw", lambda self, step: draw(self, step + 1000 * rank()))


@contextmanager
def _in_step(act: Callable[[], None], *, pause: float = 0.0) -> Iterator[None]:
    """Call ``act`` before a training step; from then on, each step is delayed by ``pause`` seconds."""
    original, steps = module.RetentionModule.training_step, 0

    def training_step(self: Any, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == _STEP:
            act()
        if steps >= _STEP:
            time.sleep(pause)
        return original(self, *arguments)

    with mock.patch.object(module.RetentionModule, "training_step", training_step):
        yield


def _terminate_rank_1() -> None:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _terminate_launcher() -> None:
    if rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)


def _fail_on_rank_1() -> None:
    if rank() == 1:
        raise TrainingError(MESSAGE)


FAULTS: dict[str, Callable[[], Any]] = {
    "state_of_rank_0": _state_of_rank_0,
    "position_in_epoch_lost": _position_in_epoch_lost,
    "slack_of_each_rank": _each_rank_for_itself,
    "rows_of_each_rank": _rows_of_each_rank,
    "budgets_of_each_rank": _budgets_of_each_rank,
    "signal_to_rank_1": lambda: _in_step(_terminate_rank_1),
    "signal_to_launcher": lambda: _in_step(_terminate_launcher, pause=1.0),
    "error_on_rank_1": lambda: _in_step(_fail_on_rank_1),
}
