"""Train a series of policies from one dense model per seed, and append their records to results/.

For every seed: stage 1 trains the dense model; stage 2 gives each policy the same further training from its
checkpoint, distilled from it. An interrupted series goes on where it stopped: run.py skips what is finished in
outputs/quality/, and what already has a record is skipped even where those folders are gone. For a whole grid of
policies and shares see conf/sweep/dense.yaml.

    python scripts/quality.py sst2_small backbone.path=<folder> data.dir=<folder>
    python scripts/quality.py pubmed_small backbone.path=<folder> data.dir=<folder> --stage1 task.epochs=2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from retention.records import read_records

ROOT = Path(__file__).resolve().parent.parent
SERIES = ("dense", "adaptive:0.5", "adaptive:0.3", "random:0.3", "truncate:0.3")


@dataclass(frozen=True)
class Job:
    """One run of the series; ``rho`` is None for the dense model of stage 1."""

    policy: str
    rho: float | None
    seed: int

    @property
    def name(self) -> str:
        """Folder name."""
        return f"{self.policy}-{'stage1' if self.rho is None else self.rho}-seed{self.seed}"


def jobs(series: Sequence[str], seeds: Sequence[int]) -> Iterator[Job]:
    """Stage 1 of a seed, then its stage 2."""
    for seed in seeds:
        yield Job("dense", None, seed)
        for entry in series:
            policy, _, rho = entry.partition(":")
            yield Job(policy, float(rho or 1.0), seed)


def command(
    job: Job, experiment: str, folder: Path, record: Path, overrides: Sequence[str], first: Sequence[str]
) -> list[str]:
    """The command line of one run; only stage 1 gets the settings ``first``, and only stage 2 leaves a record."""
    words = [sys.executable, str(ROOT / "run.py"), f"experiment={experiment}", f"retention={job.policy}"]
    words += [f"seed={job.seed}", f"hydra.run.dir={folder / job.name}", *overrides]
    if job.rho is None:
        return [*words, *first]
    teacher = folder / Job("dense", None, job.seed).name / "checkpoints" / "last.ckpt"
    return [*words, f"retention.rho={job.rho}", f"init={teacher}", "distill.weight=0.9", f"record={record}"]


def main() -> int:
    """Run the series; returns the number of failed runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of a recipe in conf/experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--series", nargs="+", default=list(SERIES), help="policy:rho, for example adaptive:0.3")
    parser.add_argument("--stage1", nargs="+", default=[], help="settings of the dense model of stage 1 alone")
    parser.add_argument("--record", type=Path, help="default: results/quality/<experiment>.jsonl")
    parser.add_argument("overrides", nargs="*", help="passed on to run.py")
    arguments = parser.parse_intermixed_args()
    if misplaced := [entry for entry in arguments.series if "=" in entry]:
        parser.error(f"{misplaced[0]}: settings go before --series and --seeds")
    record = arguments.record or ROOT / "results" / "quality" / f"{arguments.experiment}.jsonl"
    folder = ROOT / "outputs" / "quality" / arguments.experiment
    done = {
        (entry["policy"], entry["rho"], entry["seed"]) for entry in (read_records([record]) if record.exists() else [])
    }
    wanted = [job for job in jobs(arguments.series, arguments.seeds) if (job.policy, job.rho, job.seed) not in done]
    needed = {job.seed for job in wanted if job.rho is not None}  # seeds of which something is left to do
    failed = 0
    stranded: set[int] = set()  # seeds without a dense model to start from
    for job in (job for job in wanted if job.seed in needed):
        if job.seed in stranded:
            print(f"{job.name}: skipped, its dense model failed", file=sys.stderr, flush=True)
            continue
        print(f"{job.name} ...", flush=True)
        status = subprocess.run(
            command(job, arguments.experiment, folder, record, arguments.overrides, arguments.stage1)
        ).returncode
        if status:
            failed += 1
            if job.rho is None:
                stranded.add(job.seed)
            print(f"{job.name}: failed with exit status {status}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
