"""Two runs on the same test rows: what one scores more than the other, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

from retention.errors import DataError
from retention.records import Paired, Quality, Record, read_objects, read_records
from retention.report.intervals import estimate

_NAMES = ("index", "question_id", "id")  # what the benchmarks call a row
_ROWS = "predictions.jsonl"
_LEAST = 1e-6  # below it they are rounded to 0
_SHOWN = ("policy", "rho", "seed", "backbone", "commit")


def paired(first: Sequence[Path], second: Sequence[Path], references: Sequence[Path] | None = None) -> Paired:
    """Compare two kinds of run; where each was trained with several seeds, a row's score is its mean over them.

    The interval is Student's over the rows: it says how much the choice of test rows may have done, not what other
    seeds would give; for that, see the differences of the single seeds.

    Args:
        first: run folders with ``record.json`` and ``predictions.jsonl``, one for each seed.
        second: the runs they are compared with, in the same order.
        references: likewise; where given, runs are compared by how far their probabilities are from these runs',
            usually the dense model's: this tells runs apart long before their accuracies do. See ``divergences``.

    Raises:
        DataError: a file is missing or broken, the runs were tested on different rows, their rows have no score
            (with references: no probabilities), or there are several seeds and the folders do not stand for them.
    """
    folders = [first, second] if references is None else [first, second, references]
    seeds = list(zip(*folders, strict=True))
    records = [[_record(folder) for folder in of_seed] for of_seed in seeds]
    read: Callable[[Path], dict[str, Any]] = row_scores if references is None else row_decisions
    rows = [[read(folder / _ROWS) for folder in of_seed] for of_seed in seeds]
    _require_same_rows(_flat(seeds), _flat(records), _flat(rows))
    if len(seeds) > 1:
        _require_same_seeds(seeds, records)
    scores = [
        of_seed if references is None else [divergences(of_seed[2], run) for run in of_seed[:2]] for of_seed in rows
    ]
    names = list(rows[0][0])
    differences = [fmean(left[name] - right[name] for left, right in scores) for name in names]
    found = estimate(differences)
    means = [[fmean(run.values()) for run in of_seed] for of_seed in scores]
    told = [_told([of_seed[place] for of_seed in records]) for place in range(len(folders))]
    gain = -1.0 if references is not None else 1.0
    return Paired(
        task=str(records[0][0]["task"]),
        data=records[0][0]["data"],
        first={**told[0], "score": fmean(left for left, _ in means)},
        second={**told[1], "score": fmean(right for _, right in means)},
        rows=found.count,
        difference={"mean": found.mean, "low": found.low, "high": found.high},
        better=sum(gain * difference > 0 for difference in differences),
        worse=sum(gain * difference < 0 for difference in differences),
        equal=sum(difference == 0 for difference in differences),
        measure="score" if references is None else "divergence",
        reference=None if references is None else told[2],
        by_seed=tuple(left - right for left, right in means) if len(seeds) > 1 else None,
    )


def _flat(groups: Sequence[Sequence[Any]]) -> list[Any]:
    return [member for group in groups for member in group]


def _told(records: Sequence[Record]) -> dict[str, Any]:
    """What is told of a run, or of the runs of several seeds."""
    shown = {key: records[0].get(key) for key in _SHOWN}
    return shown if len(records) == 1 else {**shown, "seed": [record["seed"] for record in records]}


def _require_same_seeds(folders: Sequence[Sequence[Path]], records: Sequence[Sequence[Record]]) -> None:
    for of_seed, told in zip(folders, records, strict=True):
        seeds = [record["seed"] for record in told]
        if len(set(seeds)) > 1:
            listed = " and ".join(f"{folder} ({seed})" for folder, seed in zip(of_seed, seeds, strict=True))
            raise DataError(f"{listed} have different seeds; compare runs of the same one")
    once = {told[0]["seed"] for told in records}
    if len(once) < len(records):
        raise DataError(f"{folders[0][0]}: its seed stands there twice; give one folder for each, {{seed}} in its name")


def _require_same_rows(
    folders: Sequence[Path], records: Sequence[Record], rows: Sequence[Mapping[str, object]]
) -> None:
    names = [f"{record['task']}, {record['data'].get('source')}" for record in records]
    for folder, name, here in zip(folders, names, rows, strict=True):
        if name != names[0] or here.keys() != rows[0].keys():
            told = f"{len(rows[0])} rows ({names[0]}) and {len(here)} rows ({name})"
            message = f"{folders[0]} and {folder} were tested on different rows: {told}; test both on the same files"
            raise DataError(message)


Decisions = list[list[float]]  # of a row, the probabilities of each: of its one class, or of every label yes and no


def divergences(reference: Mapping[str, Decisions], run: Mapping[str, Decisions]) -> dict[str, float]:
    """Name of the row -> KL(reference || run) of its probabilities, in nats, >= 0, summed over its decisions."""
    return {
        name: sum(_divergence(*pair) for pair in zip(decisions, run[name], strict=True))
        for name, decisions in reference.items()
    }


def _divergence(wanted: Sequence[float], found: Sequence[float]) -> float:
    certain = ((max(p, _LEAST), max(q, _LEAST)) for p, q in zip(wanted, found, strict=True))
    return max(0.0, sum(p * log(p / q) for p, q in certain))


def row_decisions(path: Path) -> dict[str, Decisions]:
    """Name of the row -> the probabilities of its decisions: of one class, or of each label where it may have several.

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no probabilities.
    """
    missing = "this task has none, or the run is older than they are; test it again"
    return {name: _decisions(row) for name, row in _rows(path, "probabilities", list, missing).items()}


def _decisions(row: Mapping[str, Any]) -> Decisions:
    several = isinstance(row.get("prediction"), list)
    return [[share, 1.0 - share] for share in row["probabilities"]] if several else [row["probabilities"]]


def row_scores(path: Path) -> dict[str, float]:
    """Name of the row -> its score, in [0, 1].

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no score.
    """
    rows = _rows(path, "score", (int, float), "this task is not scored row by row; compare its metrics")
    return {name: float(row["score"]) for name, row in rows.items()}


def _rows(path: Path, key: str, kind: type | tuple[type, ...], otherwise: str) -> dict[str, Mapping[str, Any]]:
    """Name of the row -> the row, which has a value of this kind under the key."""
    found: dict[str, Mapping[str, Any]] = {}
    for line, row in read_objects(path):
        name = next((str(row[known]) for known in _NAMES if known in row), None)
        if name is None or name in found:
            wrong = f"has none of {', '.join(_NAMES)}" if name is None else f"names row {name} a second time"
            raise DataError(f"{path}:{line}: {wrong}; test the model again")
        if not isinstance(row.get(key), kind):
            raise DataError(f"{path}:{line}: has no {key}, {otherwise}")
        found[name] = row
    if not found:
        raise DataError(f"{path}: is empty; test the model again")
    return found


def paired_line(result: Paired) -> str:
    """The comparison in one line, in points, or in nats from the reference."""
    told = [_name(run) for run in (result.first, result.second)]
    scale, shown, unit, words = (100, "{:.1f}", "points", ("better", "worse", "equal"))
    source = ""
    if result.reference is not None:
        scale, shown, unit, words = (1, "{:.4f}", "nats", ("nearer", "farther", "equal"))
        source = f", divergence from {_name(result.reference)}"
    first, second = (shown.format(scale * run["score"]) for run in (result.first, result.second))
    signed = shown.replace(":", ":+")
    low, high = result.difference["low"], result.difference["high"]
    interval = "" if low is None else f" [{signed.format(scale * low)}, {signed.format(scale * high)}]"
    counts = ", ".join(
        f"{count} {word}" for count, word in zip((result.better, result.worse, result.equal), words, strict=True)
    )
    single = [signed.format(scale * difference) for difference in result.by_seed or ()]
    return (
        f"{result.task}{source}: {told[0]} {first}, {told[1]} {second}: "
        f"{signed.format(scale * result.difference['mean'])}{interval} {unit} on {result.rows} rows ({counts})"
        f"{', by seed ' * bool(single)}{', '.join(single)}"
    )


def _name(run: Mapping[str, Any]) -> str:
    seeds = run["seed"] if isinstance(run["seed"], list) else [run["seed"]]
    return f"{run['policy']} {run['rho']:g} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def _record(folder: Path) -> Record:
    if not (folder / "record.json").exists():
        raise DataError(f"{folder}: holds no record.json; pass the folders of two finished runs")
    [record] = read_records([folder / "record.json"])
    if record["kind"] != Quality.kind:
        raise DataError(f"{folder / 'record.json'}: is no record of a training or test run")
    return record
