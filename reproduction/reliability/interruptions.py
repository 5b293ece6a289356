"""Interrupt runs at random moments and resume them: the results must equal those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reproduction.reliability.check import Scale
from reproduction.reliability.outcome import CLEAR, HANG, INNER, RIGHT, WRONG, Tally
from reproduction.reliability.small_runs import SMALL, quiet_libraries
from retention.experiment.entry import main
from retention.experiment.resume import checkpoint_path
from retention.records import Reliability, read_records

_RUN = ("trainer.max_epochs=2", "callbacks.checkpoint.every_n_minutes=0.005", "dual=ascent", "dual.eta=0.5")
_LIMIT_S = 300.0
_RESUMES = 3  # attempts to finish an interrupted run
_EXPECTED_STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


class RunProcess:
    """Run of the command line in a forked process, which has the libraries already imported.

    Args:
        folder: run folder; ``records.jsonl`` beside it gets the record.
        log: file for its output.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        typed = [*SMALL, *_RUN, f"hydra.run.dir={folder}", f"record={folder.parent / 'records.jsonl'}", "ckpt=last"]
        self.started = time.monotonic()
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run(typed, log))

    def wait(self) -> int | None:
        """Wait for the end and return the status (negative: killed by this signal); None over the time limit."""
        while time.monotonic() - self.started < _LIMIT_S:
            finished, status = os.waitpid(self.pid, os.WNOHANG)
            if finished:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None

    def send(self, number: int, after_s: float) -> int | None:
        """Send a signal some seconds after the start, and return the status."""
        while time.monotonic() - self.started < after_s:
            finished, status = os.waitpid(self.pid, os.WNOHANG)
            if finished:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(self.pid, number)
        return self.wait()


def check_kills(scale: Scale, folder: Path) -> Reliability:
    """Kill runs by SIGKILL at random moments and resume them."""
    return _check("kill", [signal.SIGKILL] * scale.kills, scale.seed, folder)


def check_signals(scale: Scale, folder: Path) -> Reliability:
    """Stop runs by SIGTERM and by SIGINT (Ctrl-C) at random moments and resume them."""
    return _check("stop_signals", [signal.SIGTERM, signal.SIGINT] * scale.signals, scale.seed + 1, folder)


def _check(
    name: str, signals: list[signal.Signals], seed: int, folder: Path, spoil: Callable[[Path], None] | None = None
) -> Reliability:
    draw, tally = random.Random(seed), Tally(name)
    lost: list[float] = []
    moments: list[float] = []
    with quiet_libraries(folder / "cache"):
        whole = folder / "whole" / "run"
        shutil.rmtree(whole.parent, ignore_errors=True)
        process = RunProcess(whole, folder / "whole.log")
        if process.wait() != 0:
            raise RuntimeError(f"the uninterrupted run failed: {(folder / 'whole.log').read_text()[-2000:]}")
        duration = time.monotonic() - process.started
        expected = result_of(whole)
        for number, signum in enumerate(signals):
            run = folder / "stopped" / "run"
            shutil.rmtree(run.parent, ignore_errors=True)
            moments.append(round(draw.uniform(0.0, duration), 3))
            outcome, text = _interrupt(run, folder / f"{name}.log", signum, moments[-1], expected, lost, spoil)
            tally.add(outcome, signum.name, f"number {number}, after {moments[-1]} of {duration:.1f} s: {text}")
    return tally.result(
        moments_s=moments,
        run_s=round(duration, 2),
        most_work_lost_s=round(max(lost, default=0.0), 2),
        every_n_minutes=5,
    )


def _interrupt(
    run: Path,
    log: Path,
    signum: signal.Signals,
    moment: float,
    expected: dict[str, Any],
    lost: list[float],
    spoil: Callable[[Path], None] | None,
) -> tuple[str, str]:
    """Interrupt one run, finish it, and compare it with the uninterrupted one."""
    process = RunProcess(run, log)
    status = process.send(signum, moment)
    stopped_at = time.time()
    if status is None:
        return HANG, f"did not stop after {signum.name}"
    if "Traceback" in log.read_text():
        return INNER, f"traceback after {signum.name}: {log.read_text()[-200:]}"
    if status not in (0, -signum, _EXPECTED_STATUS.get(signum)):
        return WRONG, f"ended with status {status} after {signum.name}"
    lost.append(_work_lost(run, process.started, stopped_at))
    if spoil is not None:
        spoil(run)
    for _ in range(_RESUMES):
        status = RunProcess(run, log).wait()
        if status is None:
            return HANG, "the resumed run did not end"
        if status == 0:
            break
    if status != 0:
        return (INNER if "Traceback" in log.read_text() else CLEAR), f"was not resumed: {log.read_text()[-200:]}"
    differences = [key for key, value in result_of(run).items() if value != expected[key]]
    return (WRONG, f"differs in {', '.join(differences)}") if differences else (RIGHT, "")


def result_of(run: Path) -> dict[str, Any]:
    """Return what a finished run leaves: metrics, predictions, number of records, and names of its files."""
    record = json.loads((run / "record.json").read_text())
    return {
        "metrics": record["metrics"],
        "keep_ratio": record["keep_ratio"],
        "predictions": (run / "predictions.jsonl").read_text(),
        "records": len(read_records([run.parent / "records.jsonl"])),
        "leftovers": sorted(str(path.relative_to(run)) for path in run.rglob("*") if _is_leftover(path)),
    }


def _is_leftover(path: Path) -> bool:
    return path.name.endswith(".tmp") or path.name.startswith("tmp")


def _work_lost(run: Path, started: float, stopped_at: float) -> float:
    """Return the seconds between the last checkpoint (or the start of the process) and the interruption."""
    checkpoint = checkpoint_path(run)
    if not checkpoint.exists():
        return stopped_at - (time.time() - (time.monotonic() - started))
    return max(0.0, stopped_at - checkpoint.stat().st_mtime)


def _run(typed: list[str], log: Path) -> int:
    """Do what the console command does; the output goes to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["retention", "run"]
    try:
        main(typed)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0
