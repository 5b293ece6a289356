"""Start two processes with torchrun or with Lightning's launcher, and read what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reproduction.distributed.jobs import Job

ROOT = Path(__file__).resolve().parents[2]
_RANKS = ("-m", "reproduction.distributed.ranks")
LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *_RANKS),
    "lightning": _RANKS,  # the first process starts the other one
}
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Launch:
    """Processes that have ended.

    Attributes:
        folder: of the jobs.
        status: exit status of the launcher; None = it had to be killed.
        output: standard output and error of all processes.
        seconds: duration.
    """

    folder: Path
    status: int | None
    output: str
    seconds: float

    def ranks(self, name: str) -> list[dict[str, Any]]:
        """Return what each rank ended a job with, by rank; fewer where a rank did not get that far."""
        files = [self.folder / f"{name}.rank{rank}.pt" for rank in (0, 1)]
        return [torch.load(file, weights_only=True) for file in files if file.exists()]


def launch(jobs: Sequence[Job], folder: Path, launcher: str = "torchrun", *, timeout_s: float = _TIMEOUT_S) -> Launch:
    """Run jobs one after another on two processes.

    Args:
        jobs: the runs.
        folder: for their run folders, their caches and what the ranks write.
        launcher: a key of ``LAUNCHERS``.
        timeout_s: seconds after which all processes are killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps([job.plain() for job in jobs]))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    started = time.monotonic()
    log = folder / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *LAUNCHERS[launcher], str(folder)],
            stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        _end_group(process)
    return Launch(folder, status, log.read_text(errors="replace"), time.monotonic() - started)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End processes that outlive their launcher."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()
