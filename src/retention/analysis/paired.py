"""Two runs on the same test rows: what one scores more than the other, row by row."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from retention.analysis.intervals import estimate
from retention.errors import DataError
from retention.records import Paired, Quality, Record, read_objects, read_records

_NAMES = ("index", "question_id", "id")  # what the benchmarks call a row
_SHOWN = ("policy", "rho", "seed", "backbone", "commit")


def paired(first: Path, second: Path) -> Paired:
    """Compare two run folders.

    The interval is Student's over the rows: it says how much the choice of test rows may have done, not what another
    seed would give.

    Args:
        first: folder with ``record.json`` and ``predictions.jsonl``.
        second: the run it is compared with.

    Raises:
        DataError: a file is missing or broken, the runs were tested on different rows, or their rows have no score.
    """
    records = [_record(folder) for folder in (first, second)]
    scores = [row_scores(folder / "predictions.jsonl") for folder in (first, second)]
    here, there = (f"{record['task']}, {record['data'].get('source')}" for record in records)
    if here != there or scores[0].keys() != scores[1].keys():
        rows = " and ".join(f"{len(score)} rows ({name})" for score, name in zip(scores, (here, there), strict=True))
        raise DataError(f"{first} and {second} were tested on different rows: {rows}; test both on the same files")
    differences = [score - scores[1][name] for name, score in scores[0].items()]
    found = estimate(differences)
    told = [
        {**{key: record.get(key) for key in _SHOWN}, "score": fmean(score.values())}
        for record, score in zip(records, scores, strict=True)
    ]
    return Paired(
        task=str(records[0]["task"]),
        data=records[0]["data"],
        first=told[0],
        second=told[1],
        rows=found.count,
        difference={"mean": found.mean, "low": found.low, "high": found.high},
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
        equal=sum(difference == 0 for difference in differences),
    )


def row_scores(path: Path) -> dict[str, float]:
    """Name of the row -> its score, in [0, 1].

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no score.
    """
    found: dict[str, float] = {}
    for line, row in read_objects(path):
        name = next((str(row[key]) for key in _NAMES if key in row), None)
        if name is None or name in found:
            wrong = f"has none of {', '.join(_NAMES)}" if name is None else f"names row {name} a second time"
            raise DataError(f"{path}:{line}: {wrong}; test the model again")
        if not isinstance(row.get("score"), float | int):
            raise DataError(f"{path}:{line}: has no score, this task is not scored row by row; compare its metrics")
        found[name] = float(row["score"])
    if not found:
        raise DataError(f"{path}: is empty; test the model again")
    return found


def paired_line(result: Paired) -> str:
    """The comparison in one line, in points."""
    told = [f"{run['policy']} {run['rho']:g} (seed {run['seed']})" for run in (result.first, result.second)]
    low, high = result.difference["low"], result.difference["high"]
    interval = "" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return (
        f"{result.task}: {told[0]} {100 * result.first['score']:.1f}, {told[1]} {100 * result.second['score']:.1f}: "
        f"{100 * result.difference['mean']:+.1f}{interval} points on {result.rows} rows "
        f"({result.better} better, {result.worse} worse, {result.equal} equal)"
    )


def _record(folder: Path) -> Record:
    if not (folder / "record.json").exists():
        raise DataError(f"{folder}: holds no record.json; pass the folders of two finished runs")
    [record] = read_records([folder / "record.json"])
    if record["kind"] != Quality.kind:
        raise DataError(f"{folder / 'record.json'}: is no record of a training or test run")
    return record
