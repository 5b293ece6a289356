"""Compare runs on the same test rows, sample by sample."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from retention.errors import DataError, RetentionError
from retention.records import Paired, Quality, Record, append_record, build_record, read_objects, read_records
from retention.records.identity import model_settings
from retention.report.intervals import bootstrap_interval, estimate

_ROW_NAMES = ("index", "question_id", "id")  # keys under which prediction files name a row
_PREDICTIONS = "predictions.jsonl"
_MIN_PROBABILITY = 1e-6  # smaller probabilities are stored as 0
_RUN_FIELDS = ("policy", "rho", "seed", "backbone", "commit")
_DESCRIPTION = """\
Compare runs on the same test rows: the mean difference of their row scores and its 95 % interval.

A run folder holds the score of every test row (predictions.jsonl). Pairing removes what makes some rows harder than
others for every model, so small test sets can separate runs that their two means cannot. The interval is a bootstrap
over training seeds and test rows; with one seed it covers the choice of the rows alone.

    retention compare outputs/arxiv/adaptive-0.3-seed0 outputs/arxiv/random-0.3-seed0
    retention compare <run> <run> <run> --record results/paired/arxiv.jsonl    (the first with each of the others)
    retention compare <run> <run> --reference <dense run>    (by divergence from its probabilities)
    retention compare 'q/adaptive-0.3-seed{seed}' 'q/dense-1.0-seed{seed}' --seeds 0 1 2
"""

ClassProbabilities = list[list[float]]  # of one row: one distribution over classes, or [yes, no] of every label


def compare_runs(first: Sequence[Path], second: Sequence[Path], references: Sequence[Path] | None = None) -> Paired:
    """Compare the row scores of two kinds of run, each trained with one or several seeds.

    Args:
        first: run folders with ``record.json`` and ``predictions.jsonl``, one per seed.
        second: the runs to compare with, in the same order.
        references: runs in the same order, usually dense ones; if given, a row's score is the divergence of its
            probabilities from the reference run's, which separates runs long before their accuracies do. See
            ``divergences``.

    Returns:
        The comparison. ``difference`` holds ``mean``, the interval ``bootstrap_low`` .. ``bootstrap_high`` over seeds
        and rows, and ``low`` .. ``high``, Student's t interval over rows with the trained models held fixed.

    Raises:
        DataError: a file is missing or broken, the runs were tested on different rows, their rows have no score
            (with references: no probabilities), or the folders of several seeds do not match.
    """
    folders = [first, second] if references is None else [first, second, references]
    by_seed = list(zip(*folders, strict=True))
    records = [[_read_run_record(folder) for folder in seed_folders] for seed_folders in by_seed]
    read: Callable[[Path], dict[str, Any]] = row_scores if references is None else row_probabilities
    rows = [[read(folder / _PREDICTIONS) for folder in seed_folders] for seed_folders in by_seed]
    _require_same_rows(_flatten(by_seed), _flatten(records), _flatten(rows))
    if len(by_seed) > 1:
        _require_same_seeds(by_seed, records)
    if references is None:
        scores = rows
    else:
        scores = [[divergences(reference, run) for run in runs] for *runs, reference in rows]
    names = list(rows[0][0])
    table = [[left[name] - right[name] for name in names] for left, right in scores]
    differences = [fmean(column) for column in zip(*table, strict=True)]
    fixed_models, bootstrap = estimate(differences), bootstrap_interval(table)
    runs = [_describe_runs([seed_records[index] for seed_records in records]) for index in range(len(folders))]
    score = [fmean(fmean(seed_scores[index].values()) for seed_scores in scores) for index in range(2)]
    gain = 1.0 if references is None else -1.0  # a smaller divergence is better
    return Paired(
        task=str(records[0][0]["task"]),
        data=records[0][0]["data"],
        first={**runs[0], "score": score[0]},
        second={**runs[1], "score": score[1]},
        rows=len(names),
        difference={
            "mean": fixed_models.mean,
            "low": fixed_models.low,
            "high": fixed_models.high,
            "bootstrap_low": bootstrap.low,
            "bootstrap_high": bootstrap.high,
        },
        better=sum(gain * difference > 0 for difference in differences),
        worse=sum(gain * difference < 0 for difference in differences),
        equal=sum(difference == 0 for difference in differences),
        measure="score" if references is None else "divergence",
        reference=None if references is None else runs[2],
        by_seed=tuple(map(fmean, table)) if len(table) > 1 else None,
    )


def divergences(reference: Mapping[str, ClassProbabilities], run: Mapping[str, ClassProbabilities]) -> dict[str, float]:
    """Compute KL(reference || run) of every row in nats, >= 0, summed over the labels of the row."""
    return {
        name: sum(_divergence(*pair) for pair in zip(probabilities, run[name], strict=True))
        for name, probabilities in reference.items()
    }


def _divergence(target: Sequence[float], predicted: Sequence[float]) -> float:
    positive = ((max(p, _MIN_PROBABILITY), max(q, _MIN_PROBABILITY)) for p, q in zip(target, predicted, strict=True))
    return max(0.0, sum(p * log(p / q) for p, q in positive))


def row_scores(path: Path) -> dict[str, float]:
    """Read the score of every row, in [0, 1], by the name of the row.

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no score.
    """
    rows = _read_rows(path, "score", (int, float), "this task is not scored row by row; compare its metrics")
    return {name: float(row["score"]) for name, row in rows.items()}


def row_probabilities(path: Path) -> dict[str, ClassProbabilities]:
    """Read the probabilities of every row: over its classes, or of each label where a row may have several.

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no probabilities.
    """
    missing = "the task has none, or an older version wrote the file; test the model again"
    return {name: _class_probabilities(row) for name, row in _read_rows(path, "probabilities", list, missing).items()}


def _class_probabilities(row: Mapping[str, Any]) -> ClassProbabilities:
    multilabel = isinstance(row.get("prediction"), list)
    return [[p, 1.0 - p] for p in row["probabilities"]] if multilabel else [row["probabilities"]]


def _read_rows(path: Path, key: str, kind: type | tuple[type, ...], otherwise: str) -> dict[str, Mapping[str, Any]]:
    """Read rows by name; each must have a value of the kind under the key."""
    rows: dict[str, Mapping[str, Any]] = {}
    for line, row in read_objects(path):
        name = next((str(row[candidate]) for candidate in _ROW_NAMES if candidate in row), None)
        if name is None or name in rows:
            wrong = f"has none of {', '.join(_ROW_NAMES)}" if name is None else f"names row {name} a second time"
            raise DataError(f"{path}:{line}: {wrong}; test the model again")
        if not isinstance(row.get(key), kind):
            raise DataError(f"{path}:{line}: has no {key}, {otherwise}")
        rows[name] = row
    if not rows:
        raise DataError(f"{path}: is empty; test the model again")
    return rows


def _read_run_record(folder: Path) -> Record:
    path = folder / "record.json"
    if not path.exists():
        raise DataError(f"{folder}: holds no record.json; pass the folders of two finished runs")
    [record] = read_records([path])
    if record["kind"] != Quality.kind:
        raise DataError(f"{path}: is not the record of a training or test run")
    return record


def _flatten(groups: Sequence[Sequence[Any]]) -> list[Any]:
    return [member for group in groups for member in group]


def _describe_runs(records: Sequence[Record]) -> dict[str, Any]:
    """Return the fields that name a run, or the runs of several seeds."""
    fields = {key: records[0].get(key) for key in _RUN_FIELDS} | model_settings(records[0].get("config") or {})
    return fields if len(records) == 1 else {**fields, "seed": [record["seed"] for record in records]}


def _require_same_seeds(folders: Sequence[Sequence[Path]], records: Sequence[Sequence[Record]]) -> None:
    for seed_folders, seed_records in zip(folders, records, strict=True):
        seeds = [record["seed"] for record in seed_records]
        if len(set(seeds)) > 1:
            listed = " and ".join(f"{folder} ({seed})" for folder, seed in zip(seed_folders, seeds, strict=True))
            raise DataError(f"{listed} have different seeds; compare runs of the same seed")
    if len({seed_records[0]["seed"] for seed_records in records}) < len(records):
        raise DataError(f"{folders[0][0]}: its seed appears twice; give one folder per seed, with {{seed}} in its name")


def _require_same_rows(
    folders: Sequence[Path], records: Sequence[Record], rows: Sequence[Mapping[str, object]]
) -> None:
    names = [f"{record['task']}, {record['data'].get('source')}" for record in records]
    for folder, name, run_rows in zip(folders, names, rows, strict=True):
        if name != names[0] or run_rows.keys() != rows[0].keys():
            sizes = f"{len(rows[0])} rows ({names[0]}) and {len(run_rows)} rows ({name})"
            message = f"{folders[0]} and {folder} were tested on different rows: {sizes}; test both on the same files"
            raise DataError(message)


def format_comparison(result: Paired) -> str:
    """Format a comparison in one line, in points or, for divergences, in nats."""
    scale, number, unit, words, source = 100, ".1f", "points", ("better", "worse", "equal"), ""
    if result.reference is not None:
        scale, number, unit, words = 1, ".4f", "nats", ("nearer", "farther", "equal")
        source = f", divergence from {_run_name(result.reference)}"
    first, second = (f"{_run_name(run)} {scale * run['score']:{number}}" for run in (result.first, result.second))
    mean, low, high = (result.difference.get(key) for key in ("mean", "bootstrap_low", "bootstrap_high"))
    interval = "" if low is None or high is None else f" [{scale * low:+{number}}, {scale * high:+{number}}]"
    values = zip((result.better, result.worse, result.equal), words, strict=True)
    counts = ", ".join(f"{count} {word}" for count, word in values)
    by_seed = ", ".join(f"{scale * difference:+{number}}" for difference in result.by_seed or ())
    return (
        f"{result.task}{source}: {first}, {second}: {scale * (mean or 0.0):+{number}}{interval} {unit} "
        f"on {result.rows} rows ({counts}){', by seed ' * bool(by_seed)}{by_seed}"
    )


def _run_name(run: Mapping[str, Any]) -> str:
    seeds = run["seed"] if isinstance(run["seed"], list) else [run["seed"]]
    return f"{run['policy']} {run['rho']:g} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per comparison; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="retention compare", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("others", type=Path, nargs="+", help="run folders to compare it with")
    parser.add_argument("--reference", type=Path, help="run folder; compare divergences from it instead of scores")
    parser.add_argument("--seeds", type=int, nargs="+", help="compare over these seeds; folder names contain {seed}")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append the results to")
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    try:
        for other in arguments.others:
            started = time.perf_counter()
            reference = None if arguments.reference is None else _seed_folders(arguments.reference, arguments.seeds)
            run, baseline = (_seed_folders(folder, arguments.seeds) for folder in (arguments.run, other))
            result = compare_runs(run, baseline, reference)
            print(format_comparison(result))
            if arguments.record is not None:
                reference_name = None if arguments.reference is None else arguments.reference.name
                record = build_record(
                    result,
                    config={"run": arguments.run.name, "other": other.name, "reference": reference_name},
                    seed=arguments.seeds[0] if arguments.seeds else int(result.first["seed"]),
                    wall_s=time.perf_counter() - started,
                    argv=["-m", "retention.report.paired_comparison", *words],
                )
                append_record(arguments.record, record)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _seed_folders(folder: Path, seeds: Sequence[int] | None) -> list[Path]:
    return [folder] if seeds is None else [Path(str(folder).replace("{seed}", str(seed))) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main())
