"""Train a series of policies from one dense model per seed, and append their records to results/.

For every seed: stage 1 trains the dense model; stage 2 gives each policy the same further training from its
checkpoint, distilled from it. An interrupted series goes on where it stopped: run.py skips what is finished in
outputs/quality/, and what already has a record is skipped even where those folders are gone. For a whole grid of
policies and shares see conf/sweep/dense.yaml.

    python scripts/quality.py sst2_small backbone.path=<folder> data.dir=<folder>
    python scripts/quality.py pubmed_small backbone.path=<folder> data.dir=<folder> --stage1 task.epochs=2
    python scripts/quality.py sst2_small backbone.path=<folder> data.dir=<folder> --stage2 distillation=saliency \
        --series adaptive:0.3 --record results/quality/sst2_guided.jsonl
    python scripts/quality.py sst2_small backbone.path=<folder> data.dir=<folder> --jobs 2   # on two cores, one each

Small models use one core better than many: side by side, each run has its share of the cores, and what it prints is in
outputs/quality/<experiment>/<run>.log.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retention.records import read_records
from retention.records.provenance import usable_cores

ROOT = Path(__file__).resolve().parent.parent
SERIES = ("dense", "adaptive:0.5", "adaptive:0.3", "random:0.3", "truncate:0.3")


@dataclass(frozen=True)
class Job:
    """One run of the series; ``rho`` is None for the dense model of stage 1, ``settings`` are for stage 2 alone."""

    policy: str
    rho: float | None
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder name."""
        stage = "stage1" if self.rho is None else self.rho
        return f"{self.policy}-{stage}-seed{self.seed}" + "".join(f"-{_plain(word)}" for word in self.settings)

    def made(self, entry: Mapping[str, Any]) -> bool:
        """Whether this record is of this job: of its settings, too, where its run had a folder of this script's."""
        folder = re.search(rf"hydra\.run\.dir=\S*?([^/\s]+-seed{self.seed}\S*)", entry["command"])
        same = (entry["policy"], entry["rho"], entry["seed"]) == (self.policy, self.rho, self.seed)
        return same and (folder.group(1) == self.name if folder else not self.settings)


def _plain(setting: str) -> str:
    """A setting as a part of a folder's name."""
    return re.sub(r"[^\w.-]", "_", setting)


def jobs(series: Sequence[str], seeds: Sequence[int], settings: Sequence[str] = ()) -> Iterator[Job]:
    """Stage 1 of a seed, then its stage 2."""
    for seed in seeds:
        yield Job("dense", None, seed)
        for entry in series:
            policy, _, rho = entry.partition(":")
            yield Job(policy, float(rho or 1.0), seed, tuple(settings))


def command(
    job: Job, experiment: str, folder: Path, record: Path, overrides: Sequence[str], first: Sequence[str]
) -> list[str]:
    """The command line of one run; only stage 1 gets the settings ``first``, and only stage 2 leaves a record."""
    words = [sys.executable, str(ROOT / "run.py"), f"experiment={experiment}", f"retention={job.policy}"]
    words += [f"seed={job.seed}", f"hydra.run.dir={folder / job.name}", *overrides]
    if job.rho is None:
        return [*words, *first]
    teacher = folder / Job("dense", None, job.seed).name / "checkpoints" / "last.ckpt"
    words += [f"retention.rho={job.rho}", f"init={teacher}", "distill.weight=0.9", f"record={record}"]
    return [*words, *job.settings]


class Series:
    """Runs jobs, several at once if asked to; stage 2 of a seed waits for its stage 1.

    Args:
        waiting: what is to be run, in order.
        words: the command line of a job.
        logs: folder of what jobs print where several run at once.
        at_once: number of jobs that run side by side, >= 1; the cores are shared out among them.
    """

    def __init__(
        self, waiting: Sequence[Job], *, words: Callable[[Job], list[str]], logs: Path, at_once: int = 1
    ) -> None:
        self._waiting = list(waiting)
        self._words = words
        self._logs = logs
        self._at_once = at_once
        self._running: dict[Job, subprocess.Popen[bytes]] = {}
        self._untaught: set[int] = {job.seed for job in waiting if job.rho is None}  # seeds still without a dense model
        self._failed = 0

    def run(self) -> int:
        """Run everything; returns the number of failed jobs."""
        while self._waiting or self._running:
            while len(self._running) < self._at_once and (job := self._ready()) is not None:
                self._waiting.remove(job)
                print(f"{job.name} ...", flush=True)
                self._running[job] = self._start(job)
            time.sleep(0.1)
            for job, process in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[job]
                    self._end(job, process.returncode)
        return self._failed

    def _ready(self) -> Job | None:
        """The first job whose dense model is there, or that trains one."""
        return next((job for job in self._waiting if job.rho is None or job.seed not in self._untaught), None)

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        if self._at_once == 1:
            return subprocess.Popen(self._words(job))
        threads = str(max(1, usable_cores() // self._at_once))
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{job.name}.log").open("wb") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            return subprocess.Popen(self._words(job), stdout=log, stderr=subprocess.STDOUT, env=environment)

    def _end(self, job: Job, status: int) -> None:
        if status:
            self._failed += 1
            where = "" if self._at_once == 1 else f"; see {self._logs / f'{job.name}.log'}"
            print(f"{job.name}: failed with exit status {status}{where}", file=sys.stderr, flush=True)
        elif self._at_once > 1:
            print(f"{job.name}: done", flush=True)
        if job.rho is None:
            if status:
                self._drop(job.seed)
            self._untaught.discard(job.seed)

    def _drop(self, seed: int) -> None:
        """Give up what starts from a dense model that failed."""
        for job in [job for job in self._waiting if job.seed == seed]:
            self._waiting.remove(job)
            print(f"{job.name}: skipped, its dense model failed", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the series; returns the number of failed runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of a recipe in conf/experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--series", nargs="+", default=list(SERIES), help="policy:rho, for example adaptive:0.3")
    parser.add_argument("--stage1", nargs="+", default=[], help="settings of the dense model of stage 1 alone")
    parser.add_argument("--stage2", nargs="+", default=[], help="settings of the policies of stage 2 alone")
    parser.add_argument("--record", type=Path, help="default: results/quality/<experiment>.jsonl")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default: 1)")
    parser.add_argument("overrides", nargs="*", help="passed on to run.py")
    arguments = parser.parse_intermixed_args(argv)
    if misplaced := [entry for entry in arguments.series if "=" in entry]:
        parser.error(f"{misplaced[0]}: settings go before --series and --seeds")
    if arguments.jobs < 1:
        parser.error(f"--jobs: must be 1 or more, got {arguments.jobs}")
    record = arguments.record or ROOT / "results" / "quality" / f"{arguments.experiment}.jsonl"
    folder = ROOT / "outputs" / "quality" / arguments.experiment
    entries = read_records([record]) if record.exists() else []
    asked = jobs(arguments.series, arguments.seeds, arguments.stage2)
    wanted = [job for job in asked if not any(job.made(entry) for entry in entries)]
    needed = {job.seed for job in wanted if job.rho is not None}  # seeds of which something is left to do

    def words(job: Job) -> list[str]:
        return command(job, arguments.experiment, folder, record, arguments.overrides, arguments.stage1)

    waiting = [job for job in wanted if job.seed in needed]
    return Series(waiting, words=words, logs=folder, at_once=arguments.jobs).run()


if __name__ == "__main__":
    sys.exit(main())
