r"""Choose the own hyper-parameter of each method on validation rows, then score the chosen model on test rows, once.

    python -m reproduction.selection sst2_small backbone.path=<folder> data.dir=<folder> \
        --policies ltp:0.3 transkimmer:0.3 --stage1 task.lr=1e-4
    python -m reproduction.selection sst2_small ... --policies dense --stage2 backbone.layers=3
    python -m reproduction.selection sst2_small ... --policies ltp:0.3 --validation-only

reproduction/hyperparameters.yaml lists the values of each method. Each one is trained from the dense model of stage 1,
as by reproduction.series, and scored on the validation rows (evaluate=validation); no test row is read. These records
go to results/validation. The value with the best main metric is chosen, for every seed; the test of the seed that it
was chosen with needs no second training. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from reproduction.series import ROOT, Job, Series, command, missing_jobs, trained_with
from retention.errors import DataError, RetentionError
from retention.records import Validation, read_records
from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

HYPERPARAMETERS = Path(__file__).with_name("hyperparameters.yaml")
Grids = Mapping[str, Mapping[str, Sequence[Any]]]  # policy -> key -> values


def read_hyperparameters(path: Path = HYPERPARAMETERS) -> Grids:
    """Read the hyper-parameters of each method.

    Raises:
        DataError: the file is not a mapping of policy -> key -> list of two values or more.
    """
    grids: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    for policy, grid in (grids if isinstance(grids, dict) else {"(file)": grids}).items():
        lists = list(grid.values()) if isinstance(grid, dict) else []
        if not lists or not all(isinstance(values, list) and len(values) > 1 for values in lists):
            raise DataError(
                f"{path}: {policy}: must be {{key: [value, value, ...]}} with 2 values or more, got {grid!r}"
            )
    return dict(grids)


def candidates(entry: str, seed: int, grids: Grids, shared: Sequence[str] = ()) -> list[Job]:
    """Return one job for each combination of the values of a method.

    Args:
        entry: ``policy:rho``, for example ``ltp:0.3``.
        seed: random seed.
        grids: of ``read_hyperparameters``.
        shared: overrides of all jobs of stage 2.

    Raises:
        DataError: the method has no values to choose from.
    """
    policy, _, rho = entry.partition(":")
    if policy not in grids:
        raise DataError(f"{HYPERPARAMETERS.name}: {policy} has no values; add some, or choose from {', '.join(grids)}")
    keys = list(grids[policy])
    settings = itertools.product(*grids[policy].values())
    return [
        Job(
            policy,
            float(rho or 1.0),
            seed,
            (*shared, *(f"{key}={value}" for key, value in zip(keys, each, strict=True))),
        )
        for each in settings
    ]


def choose(jobs: Sequence[Job], records: Sequence[Record]) -> Job:
    """Return the job whose model is best on the validation rows; of equal ones the first.

    Args:
        jobs: candidates of one method.
        records: validation records; other kinds are left out, of two of a job the later one counts.

    Raises:
        DataError: a job has no validation record, or they were scored on different rows.
    """
    by_job = {job: _validation(job, records) for job in jobs}
    if missing := [job.name for job, record in by_job.items() if record is None]:
        raise DataError(f"{missing[0]}: has no validation record; see the output of its run and run the command again")
    rows = {(record["data"]["source"], record["data"]["val"]) for record in by_job.values() if record is not None}
    if len(rows) > 1:
        raise DataError(f"{jobs[0].policy}: its candidates were validated on different rows: {sorted(map(str, rows))}")
    return max(jobs, key=lambda job: _score(by_job[job]))


def selection_table(choices: Mapping[Job, Sequence[Job]], records: Sequence[Record]) -> str:
    """Return a Markdown table of all candidates with their score on the validation rows.

    Args:
        choices: chosen job -> the candidates that it was chosen from.
        records: their validation records.
    """
    rows = [
        [
            f"{job.policy} {job.rho:g}",
            " ".join(job.overrides),
            f"{100 * _score(_validation(job, records)):.2f}",
            "chosen" if job == chosen else "",
        ]
        for chosen, jobs in choices.items()
        for job in jobs
    ]
    return markdown_table(text_frame(("method", "settings", "validation score", ""), rows))


def _validation(job: Job, records: Sequence[Record]) -> Record | None:
    of_job = [record for record in records if record["kind"] == Validation.kind and job.matches(record)]
    return of_job[-1] if of_job else None


def _score(record: Record | None) -> float:
    return float("-inf") if record is None else float(record["metrics"][record["monitor"]])


def _read(path: Path) -> list[Record]:
    records: list[Record] = list(read_records([path])) if path.exists() else []
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Choose settings and score the chosen models; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.selection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="name of a recipe in conf/experiment")
    parser.add_argument("--policies", nargs="+", required=True, help="policy:rho, for example ltp:0.3")
    parser.add_argument("--seed", type=int, default=0, help="seed that settings are chosen with (default: 0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the tests (default: 0 1 2)")
    parser.add_argument("--stage1", nargs="+", default=[], help="overrides of the dense model of stage 1 only")
    parser.add_argument("--stage2", nargs="+", default=[], help="overrides of the policies of stage 2 only")
    parser.add_argument("--record", type=Path, help="default: results/quality/<experiment>_selected.jsonl")
    parser.add_argument("--validation-record", type=Path, help="default: results/validation/<experiment>.jsonl")
    parser.add_argument("--validation-only", action="store_true", help="choose, and score no test rows")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs side by side (default: 1)")
    parser.add_argument("overrides", nargs="*", help="passed on to run.py")
    arguments = parser.parse_intermixed_args(argv)
    if misplaced := [entry for entry in arguments.policies if "=" in entry]:
        parser.error(f"{misplaced[0]}: put overrides before --policies and --seeds")
    results, name = ROOT / "results", arguments.experiment
    quality = arguments.record or results / "quality" / f"{name}_selected.jsonl"
    validation = arguments.validation_record or results / "validation" / f"{name}.jsonl"
    try:
        grids = read_hyperparameters()
        methods = [candidates(entry, arguments.seed, grids, arguments.stage2) for entry in arguments.policies]
        _run([job for jobs in methods for job in jobs], arguments, validation, validate=True)
        records = [record for record in _read(validation) if trained_with(record, arguments.overrides)]
        choices = {choose(jobs, records): jobs for jobs in methods}
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(selection_table(choices, records))
    if arguments.validation_only:
        return 0
    tests = [Job(job.policy, job.rho, seed, job.overrides) for seed in arguments.seeds for job in choices]
    return _run(tests, arguments, quality, validate=False)


def _run(requested: Sequence[Job], arguments: argparse.Namespace, record_file: Path, *, validate: bool) -> int:
    """Run the jobs that have no record yet, after the dense models they start from; return the number of failures."""
    records = _read(record_file)
    missing = missing_jobs(requested, records, arguments.overrides)
    dense = [Job("dense", None, seed) for seed in dict.fromkeys(job.seed for job in missing)]
    folder = ROOT / "outputs" / "quality" / arguments.experiment
    build = partial(command, folder=folder, record=record_file, overrides=arguments.overrides, stage1=arguments.stage1)

    def command_of(job: Job) -> list[str]:
        words = build(job, arguments.experiment)
        if job.rho is None:
            return words
        # a model that was validated is only tested: its training is complete, and its folder has no test record
        return [*words, "ckpt=last", *(["evaluate=validation"] if validate else [])]

    return Series([*dense, *missing], command_of=command_of, logs=folder, parallel=arguments.jobs).run()


if __name__ == "__main__":
    sys.exit(main())
