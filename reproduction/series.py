r"""Train a series of policies from one dense model per seed, and append their records to results/.

For every seed, stage 1 trains the dense model; stage 2 gives each policy the same further training from its
checkpoint, distilled from it. An interrupted series continues where it stopped: run.py skips runs that are finished in
outputs/quality/, and runs with a record of the same settings are skipped even if those folders are gone. For a whole
grid of policies and keep ratios see conf/sweep/dense.yaml.

    python -m reproduction.series sst2_small backbone.path=<folder> data.dir=<folder>
    python -m reproduction.series pubmed_small backbone.path=<folder> data.dir=<folder> --stage1 task.epochs=2
    python -m reproduction.series sst2_small backbone.path=<folder> data.dir=<folder> \
        --stage2 distillation=saliency --series adaptive:0.3 --record results/quality/sst2_guided.jsonl
    python -m reproduction.series sst2_small backbone.path=<folder> data.dir=<folder> --jobs 2
    python -m reproduction.series sst2_small backbone.path=<folder> data.dir=<folder> data.train_size=5000 \
        --stage1 task.lr=1e-4 data.train_size=20000 --list reproduction/ladder.yaml \
        --record results/ladder/sst2.jsonl

Small models train faster on one core than on many: with --jobs, the runs share the cores, and the output of each is in
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from retention.errors import DataError, first_line
from retention.records import read_records
from retention.records.identity import GIVEN, settings, word
from retention.records.provenance import usable_cores

ROOT = Path(__file__).resolve().parent.parent
SERIES = ("dense", "adaptive:0.5", "adaptive:0.3", "random:0.3", "truncate:0.3")


@dataclass(frozen=True)
class Job:
    """A run of the series.

    Attributes:
        policy: name of the policy.
        rho: target keep ratio; None for the dense model of stage 1.
        seed: random seed.
        overrides: Hydra overrides of stage 2.
    """

    policy: str
    rho: float | None
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run folder."""
        stage = "stage1" if self.rho is None else self.rho
        return f"{self.policy}-{stage}-seed{self.seed}" + "".join(
            f"-{_folder_part(override)}" for override in self.overrides
        )

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Return True if a record is of this job; runs in a folder of this script must have the same overrides."""
        folder = re.search(rf"hydra\.run\.dir=\S*?([^/\s]+-seed{self.seed}\S*)", record["command"])
        same = (record["policy"], record["rho"], record["seed"]) == (self.policy, self.rho, self.seed)
        return same and (folder.group(1) == self.name if folder else not self.overrides)


def trained_with(record: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Return True if a record has the settings that the overrides of a command set.

    Paths, rows, hardware and the choice of configuration groups are left out, since records do not hold them or hold
    what follows from them.

    Args:
        record: of a run.
        overrides: ``key=value`` each.
    """
    used = settings(record.get("config") or {})
    for override in overrides:
        key, _, text = override.lstrip("+~").partition("=")
        if key in used and "$" not in text and word(_number(used[key])) != word(_number(yaml.safe_load(text))):
            return False
    return True


def missing_jobs(requested: Sequence[Job], records: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> list[Job]:
    """Return the jobs that have no record with the settings that the overrides of the command set."""
    alike = [record for record in records if trained_with(record, overrides)]
    return [job for job in requested if not any(job.matches(record) for record in alike)]


def _number(value: Any) -> Any:
    """Return numbers as floats, also those that YAML reads as text (1e-4)."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return GIVEN if isinstance(value, str) and "/" in value else value


def _folder_part(override: str) -> str:
    return re.sub(r"[^\w.-]", "_", override)


@dataclass(frozen=True)
class Entry:
    """A model of stage 2, trained with every seed.

    Attributes:
        policy: name of the policy and its target keep ratio, ``policy:rho``; 1 if there is none.
        overrides: Hydra overrides of this model alone.
        name: for readers; "" if there is none.
    """

    policy: str
    overrides: tuple[str, ...] = ()
    name: str = ""

    def job(self, seed: int) -> Job:
        """Return the run of one seed."""
        policy, _, rho = self.policy.partition(":")
        return Job(policy, float(rho or 1.0), seed, self.overrides)


def jobs(entries: Sequence[Entry], seeds: Sequence[int]) -> Iterator[Job]:
    """Yield stage 1 of every seed, followed by its stage 2."""
    for seed in seeds:
        yield Job("dense", None, seed)
        yield from (entry.job(seed) for entry in entries)


def read_list(path: Path) -> list[Entry]:
    """Read policies of stage 2, each with overrides of its own.

    Args:
        path: YAML file, a list of ``{name, policy, overrides}``; ``policy`` is ``policy:rho``, ``name`` is for readers.

    Raises:
        DataError: the file cannot be read, or an entry is not of this form.
    """
    try:
        entries: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from error
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        if not isinstance(entry, dict) or entry.keys() != {"name", "policy", "overrides"}:
            raise DataError(f"{path}: entry {number} must have name, policy and overrides, got {entry!r}")
    return [Entry(str(entry["policy"]), tuple(map(str, entry["overrides"])), str(entry["name"])) for entry in entries]


def command(
    job: Job, experiment: str, folder: Path, record: Path, overrides: Sequence[str], stage1: Sequence[str]
) -> list[str]:
    """Return the command line of a run; only stage 1 gets the overrides ``stage1``, and only stage 2 has a record."""
    words = [sys.executable, str(ROOT / "run.py"), f"experiment={experiment}", f"retention={job.policy}"]
    words += [f"seed={job.seed}", f"hydra.run.dir={folder / job.name}", *overrides]
    if job.rho is None:
        return [*words, *stage1]
    teacher = folder / Job("dense", None, job.seed).name / "checkpoints" / "last.ckpt"
    words += [f"retention.rho={job.rho}", f"init={teacher}", "distill.weight=0.9", f"record={record}"]
    return [*words, *job.overrides]


class Series:
    """Runs jobs, several at a time if requested; stage 2 of a seed waits for its stage 1.

    Args:
        waiting: jobs to run, in order.
        command_of: returns the command line of a job.
        logs: folder for the output of jobs that run side by side.
        parallel: number of jobs that run side by side, >= 1; they share the cores.
    """

    def __init__(
        self, waiting: Sequence[Job], *, command_of: Callable[[Job], list[str]], logs: Path, parallel: int = 1
    ) -> None:
        self._waiting = list(waiting)
        self._command_of = command_of
        self._logs = logs
        self._parallel = parallel
        self._running: dict[Job, subprocess.Popen[bytes]] = {}
        self._without_dense = {job.seed for job in waiting if job.rho is None}  # seeds whose dense model is not trained
        self._failed = 0

    def run(self) -> int:
        """Run all jobs; return the number of failed ones."""
        while self._waiting or self._running:
            while len(self._running) < self._parallel and (job := self._ready()) is not None:
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
        """Return the first job that trains a dense model or whose dense model is trained."""
        return next((job for job in self._waiting if job.rho is None or job.seed not in self._without_dense), None)

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        if self._parallel == 1:
            return subprocess.Popen(self._command_of(job))
        threads = str(max(1, usable_cores() // self._parallel))
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{job.name}.log").open("wb") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            return subprocess.Popen(self._command_of(job), stdout=output, stderr=subprocess.STDOUT, env=environment)

    def _end(self, job: Job, status: int) -> None:
        if status:
            self._failed += 1
            log = "" if self._parallel == 1 else f"; see {self._logs / f'{job.name}.log'}"
            print(f"{job.name}: failed with exit status {status}{log}", file=sys.stderr, flush=True)
        elif self._parallel > 1:
            print(f"{job.name}: done", flush=True)
        if job.rho is None:
            if status:
                self._drop(job.seed)
            self._without_dense.discard(job.seed)

    def _drop(self, seed: int) -> None:
        """Skip the jobs that start from a dense model that failed."""
        for job in [job for job in self._waiting if job.seed == seed]:
            self._waiting.remove(job)
            print(f"{job.name}: skipped, its dense model failed", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the series; return the number of failed runs."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.series", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="name of a recipe in conf/experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--series", nargs="+", default=list(SERIES), help="policy:rho, for example adaptive:0.3")
    parser.add_argument("--list", type=Path, help="YAML file of policies with overrides, see reproduction/ladder.yaml")
    parser.add_argument("--stage1", nargs="+", default=[], help="overrides of the dense model of stage 1 only")
    parser.add_argument("--stage2", nargs="+", default=[], help="overrides of all policies of stage 2")
    parser.add_argument("--record", type=Path, help="default: results/quality/<experiment>.jsonl")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs side by side (default: 1)")
    parser.add_argument("overrides", nargs="*", help="passed on to run.py")
    arguments = parser.parse_intermixed_args(argv)
    if misplaced := [entry for entry in arguments.series if "=" in entry]:
        parser.error(f"{misplaced[0]}: put overrides before --series and --seeds")
    if arguments.jobs < 1:
        parser.error(f"--jobs: must be 1 or more, got {arguments.jobs}")
    record_file = arguments.record or ROOT / "results" / "quality" / f"{arguments.experiment}.jsonl"
    folder = ROOT / "outputs" / "quality" / arguments.experiment
    records = read_records([record_file]) if record_file.exists() else []
    try:
        entries = list(map(Entry, arguments.series)) if arguments.list is None else read_list(arguments.list)
    except DataError as error:
        parser.error(f"--list: {error}")
    shared = tuple(arguments.stage2)
    entries = [replace(entry, overrides=(*shared, *entry.overrides)) for entry in entries]
    requested = list(jobs(entries, arguments.seeds))
    missing = missing_jobs(requested, records, arguments.overrides)
    if skipped := sum(job.rho is not None and job not in missing for job in requested):
        print(f"{skipped} runs have a record in {record_file} and are not repeated", file=sys.stderr)
    unfinished_seeds = {job.seed for job in missing if job.rho is not None}

    def command_of(job: Job) -> list[str]:
        return command(job, arguments.experiment, folder, record_file, arguments.overrides, arguments.stage1)

    waiting = [job for job in missing if job.seed in unfinished_seeds]
    return Series(waiting, command_of=command_of, logs=folder, parallel=arguments.jobs).run()


if __name__ == "__main__":
    sys.exit(main())
