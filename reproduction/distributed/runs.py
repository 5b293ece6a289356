"""Run the jobs that checks look at, on two processes and on one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from reproduction.distributed.jobs import COMPARED, FAILED, JOBS, ONE, TERMINATED, TESTED, Job
from reproduction.distributed.launch import Launch, launch
from reproduction.distributed.ranks import run_job
from retention.errors import CheckpointError

RESUMED = "resumed_in_epoch"  # the job that is also resumed on one process, which must be refused
_TIMEOUT_S = 900.0


@dataclass
class Runs:
    """Finished runs.

    Attributes:
        two: the jobs on two processes.
        terminated: a run whose launcher (torchrun) got SIGTERM.
        failed: a run, started by Lightning, in which one rank raised an error.
        one: results of the same jobs on one process, by name.
        refused: message of a resumption on one process; None = it was not refused.
    """

    two: Launch
    terminated: Launch
    failed: Launch
    one: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: str | None = None


def run_all(folder: Path, names: Collection[str] | None = None) -> Runs:
    """Run jobs in a scratch folder.

    Args:
        folder: the scratch folder.
        names: of the jobs; those that are compared with one process run there as well. None = all jobs.
    """
    skipped = Launch(folder, None, "", 0.0)
    jobs = [job for job in JOBS if names is None or job.name in names]
    runs = Runs(launch(jobs, folder / "two") if jobs else skipped, skipped, skipped)
    if names is None or TERMINATED.name in names:
        runs.terminated = launch([TERMINATED], folder / "terminated", timeout_s=_TIMEOUT_S)
    if names is None or FAILED.name in names:
        runs.failed = launch([FAILED], folder / "failed", "lightning", timeout_s=_TIMEOUT_S)
    if runs.two.status == 0:
        with mock.patch("datasets.config.HF_DATASETS_CACHE", runs.two.folder / "cache"):
            _run_on_one_process(runs, jobs)
    return runs


def _run_on_one_process(runs: Runs, jobs: list[Job]) -> None:
    for job in jobs:
        if job in (*COMPARED, TESTED):
            single = Job(job.name, job.typed, run=f"one/{job.name}")
            runs.one[job.name] = run_job(single, runs.two.folder, ONE)
        if job.name == RESUMED:
            try:
                run_job(Job(job.name, job.typed, run="one/resumed"), runs.two.folder, ONE)
            except CheckpointError as error:
                runs.refused = str(error)
