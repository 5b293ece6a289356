"""Define what a reliability check is: a name and a function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retention.records import Reliability


@dataclass(frozen=True)
class Scale:
    """Numbers of attempts of all checks.

    Attributes:
        configurations: fuzzed configurations.
        trained: of those that are valid, how many are trained for an epoch.
        checkpoints: damaged checkpoints.
        data_files: damaged data files.
        kills: runs killed by SIGKILL.
        signals: runs stopped by SIGTERM, and as many by SIGINT.
        thread_calls: calls of a trained model from four threads.
        requests: requests to the server.
        seed: of everything that is drawn.
    """

    configurations: int = 2000
    trained: int = 20
    checkpoints: int = 500
    data_files: int = 200
    kills: int = 20
    signals: int = 10
    thread_calls: int = 2000
    requests: int = 10_000
    seed: int = 0


FULL = Scale()


@dataclass(frozen=True)
class Check:
    """Reliability check.

    Attributes:
        name: of its records.
        run: runs it in a scratch folder and returns its result.
    """

    name: str
    run: Callable[[Scale, Path], Reliability]
