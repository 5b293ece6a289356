"""Test training on two gloo processes: state, resuming, metrics, records, signals and failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction.distributed.checks import CHECKS, evaluate, jobs_of
from reproduction.distributed.jobs import FAILED, JOBS, TERMINATED
from reproduction.distributed.launch import Launch
from reproduction.distributed.runs import Runs, run_all


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the finished runs of two processes, and those of one process that they are compared with."""
    return run_all(tmp_path_factory.mktemp("distributed"))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_two_processes(check: str, runs: Runs) -> None:
    result = evaluate(check, runs)  # cases with an injected fault count as wrong if nothing was noticed
    assert result.wrong == 0 and result.clear == result.tried > 0, (result.details, runs.two.output[-3000:])


@pytest.mark.parametrize("check", CHECKS)
def test_missing_runs_fail_every_check(check: str, tmp_path: Path) -> None:
    nothing = Launch(tmp_path, None, "", 0.0)
    result = evaluate(check, Runs(nothing, nothing, nothing))
    failed = [name for name, holds in result.details["cases"].items() if not holds]
    assert failed == [name for name in result.details["cases"] if not name.startswith("injected fault")]


def test_checks_need_every_job() -> None:
    assert jobs_of(CHECKS) == {job.name for job in (*JOBS, TERMINATED, FAILED)}
    assert "ascent" in jobs_of(["distributed_resume"]) and "dense" not in jobs_of(["distributed_resume"])
