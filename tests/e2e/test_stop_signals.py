"""Test runs that are stopped by a signal: their exit status, their message, and how they go on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from reproduction.series import Job, Series
from tests.e2e.interruption import EPOCHS, STEPS, TYPED, content, predictions, same_weights


@pytest.mark.parametrize(
    ("number", "hook", "count", "status", "step"),
    [
        (signal.SIGTERM, "training_step", 2, 143, 2),
        pytest.param(signal.SIGINT, "training_step", STEPS + 3, 130, STEPS + 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "training_step", STEPS, 138, STEPS, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "validation_step", 1, 143, STEPS, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "test_step", 1, 143, EPOCHS * STEPS, marks=pytest.mark.slow),
    ],
)
def test_stopped_run_ends_with_the_status_of_the_signal_and_can_be_resumed(
    number: int, hook: str, count: int, status: int, step: int,
    two_epochs: Any, send_signal: Any, start: Any, tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    stopped = send_signal(number, hook, count, *TYPED, f"hydra.run.dir={folder}")
    assert stopped.returncode == status, stopped.stderr[-2000:]
    assert "Traceback" not in stopped.stderr
    assert f"hydra.run.dir={folder} ckpt=last" in stopped.stderr and signal.Signals(number).name in stopped.stderr
    assert not (folder / "record.json").exists()
    assert content(folder / "checkpoints" / "last.ckpt")["global_step"] == step
    [record] = start(folder, *TYPED, "ckpt=last")
    assert same_weights(two_epochs.checkpoint, folder / "checkpoints" / "last.ckpt")
    assert predictions(folder) == predictions(two_epochs.folder) and record["metrics"] == two_epochs.record["metrics"]


@pytest.mark.slow
def test_interrupt_before_training_ends_with_status_130(send_signal: Any) -> None:
    stopped = send_signal(signal.SIGINT, "__init__", 1)
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr


@pytest.mark.slow
def test_stopped_sweep_stops_at_once_lists_what_is_left_and_goes_on_later(
    send_signal: Any, command_line: Any, tmp_path: Path
) -> None:
    typed = ("retention=random,truncate", "seed=0,1", *TYPED, f"hydra.sweep.dir={tmp_path}/sweep")
    stopped = send_signal(signal.SIGTERM, "training_step", EPOCHS * STEPS + 2, *typed, flags=("-m",))
    assert stopped.returncode == 143
    listed = stopped.stderr[stopped.stderr.index("3 jobs of the sweep are left") :].splitlines()[1:4]
    assert [line.strip() for line in listed] == [
        "retention=random seed=1",
        "retention=truncate seed=0",
        "retention=truncate seed=1",
    ]
    assert len(list((tmp_path / "sweep").rglob("record.json"))) == 1
    [checkpoint] = [path for path in (tmp_path / "sweep").rglob("last.ckpt") if "seed1" in str(path)]
    assert content(checkpoint)["global_step"] == 2
    done = command_line(*typed, "ckpt=last", flags=["-m"])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("already finished") == 1
    assert len(list((tmp_path / "sweep").rglob("record.json"))) == 4


def test_stopped_stage_one_of_a_series_starts_no_stage_two(tmp_path: Path) -> None:
    started: list[str] = []

    def command_of(job: Job) -> list[str]:
        started.append(job.name)
        return [sys.executable, "-c", f"import os; os._exit({128 + signal.SIGTERM})"]

    waiting = [Job("dense", None, 0), Job("adaptive", 0.5, 0)]
    assert Series(waiting, command_of=command_of, logs=tmp_path).run() == 1
    assert started == ["dense-stage1-seed0"]
