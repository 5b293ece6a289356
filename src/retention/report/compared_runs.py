"""Read runs that are to be compared, and check that they were tested on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from retention.errors import DataError
from retention.records import Quality, Record, read_objects, read_records
from retention.records.identity import data_seed, model_settings

_ROW_NAMES = ("index", "question_id", "id")  # keys under which prediction files name a row
_PREDICTIONS = "predictions.jsonl"
_RUN_FIELDS = ("policy", "rho", "seed", "backbone", "commit")

Row = TypeVar("Row")


@dataclass(frozen=True)
class ComparedRuns(Generic[Row]):
    """Runs side by side: for each seed one run of each kind, all tested on the same rows.

    With cross-validation, each seed tests rows of its own, so the rows of all seeds are joined: each has the score of
    the one run that tested it, and there is a single entry in ``rows``.

    Attributes:
        records: by seed, then by kind.
        rows: likewise, name of the row -> what was read of it.
        documents: document of each row in the order of ``names``, such as the contract of a clause; None where each
            row is a document of its own, or an older version wrote the predictions.
    """

    records: Sequence[Sequence[Record]]
    rows: Sequence[Sequence[Mapping[str, Row]]]
    documents: Sequence[str] | None

    @property
    def names(self) -> list[str]:
        """Names of the rows."""
        return list(self.rows[0][0])

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.records[0][0]["task"])

    @property
    def data(self) -> Mapping[str, Any]:
        """Description of the rows."""
        data: Mapping[str, Any] = self.records[0][0]["data"]
        return data

    def describe(self, kind: int) -> dict[str, Any]:
        """Return the fields that name the run of a kind, or its runs of several seeds."""
        records = [seed_records[kind] for seed_records in self.records]
        fields = {key: records[0].get(key) for key in _RUN_FIELDS} | model_settings(records[0].get("config") or {})
        return fields if len(records) == 1 else {**fields, "seed": [record["seed"] for record in records]}


def read_compared(kinds: Sequence[Sequence[Path]], read: Callable[[Path], Mapping[str, Row]]) -> ComparedRuns[Row]:
    """Read the records and the predictions of runs.

    Args:
        kinds: for each kind of run, its folders, one per seed, in the same order.
        read: reads a file of predictions, see ``read_rows``.

    Raises:
        DataError: a file is missing or broken, the runs were tested on different rows, or the seeds do not match.
    """
    by_seed = list(zip(*kinds, strict=True))
    records = [[_read_record(folder) for folder in folders] for folders in by_seed]
    rows = [[read(folder / _PREDICTIONS) for folder in folders] for folders in by_seed]
    described = [[_read_labels_and_documents(folder / _PREDICTIONS) for folder in folders] for folders in by_seed]
    folds = _number_of_folds(_flat(by_seed), records)
    for alike in [slice(seed, seed + 1) for seed in range(len(by_seed))] if folds else [slice(None)]:
        folders = _flat(by_seed[alike])
        _require_same_rows(folders, _flat(records[alike]), _flat(rows[alike]))
        _require_same_labels(folders, [labels for labels, _ in _flat(described[alike])])
    if len(by_seed) > 1:
        _require_same_seeds(by_seed, records)
    documents = [of_kinds[0][1] for of_kinds in described]
    if not folds:
        return ComparedRuns(records, rows, documents[0])
    joined = [_join([run[0]["seed"] for run in records], of_seeds) for of_seeds in zip(*rows, strict=True)]
    named = [name for names in documents if names is not None for name in names]
    return ComparedRuns(records, [joined], None if None in documents else named)


def read_rows(
    path: Path, keys: Sequence[str], kind: type | tuple[type, ...], otherwise: str
) -> dict[str, Mapping[str, Any]]:
    """Read the rows of a file of predictions by name.

    Args:
        path: JSON Lines file.
        keys: that each row must have.
        kind: type of their values.
        otherwise: what it means that a row lacks one, for the error.

    Raises:
        DataError: the file cannot be read or is empty, names a row twice, or a row lacks a key.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for line, row in read_objects(path):
        value = _row_name(row)
        name = str(value)
        if value is None or name in rows:
            wrong = f"has none of {', '.join(_ROW_NAMES)}" if value is None else f"names row {name} a second time"
            raise DataError(f"{path}:{line}: {wrong}; test the model again")
        if missing := [key for key in keys if not isinstance(row.get(key), kind)]:
            raise DataError(f"{path}:{line}: has no {missing[0]}, {otherwise}")
        rows[name] = row
    if not rows:
        raise DataError(f"{path}: is empty; test the model again")
    return rows


def _row_name(row: Mapping[str, Any]) -> Any:
    return next((row[candidate] for candidate in _ROW_NAMES if candidate in row), None)


def _read_labels_and_documents(path: Path) -> tuple[dict[str, Any], list[str] | None]:
    """Return the labels of the rows that have one, by name, and the document of each row; None if a row names none."""
    rows = [row for _, row in read_objects(path)]
    labels = {str(_row_name(row)): row["label"] for row in rows if "label" in row}
    documents = [row.get("document") for row in rows]
    return labels, None if None in documents else [str(document) for document in documents]


def _require_same_labels(folders: Sequence[Path], labels: Sequence[Mapping[str, Any]]) -> None:
    """Check that rows of the same name have the same label, where predictions hold labels."""
    for folder, each in zip(folders, labels, strict=True):
        if different := [name for name, label in each.items() if labels[0].get(name, label) != label]:
            changed = f"{len(different)} of {len(each)} have another label, for example {different[0]}"
            message = f"{folders[0]} and {folder} were tested on different rows: {changed}; test both on the same files"
            raise DataError(message)


def _read_record(folder: Path) -> Record:
    path = folder / "record.json"
    if not path.exists():
        raise DataError(f"{folder}: holds no record.json; pass the folders of two finished runs")
    [record] = read_records([path])
    if record["kind"] != Quality.kind:
        raise DataError(f"{path}: is not the record of a training or test run")
    return record


def _flat(groups: Sequence[Sequence[Any]]) -> list[Any]:
    return [member for group in groups for member in group]


def _require_same_seeds(folders: Sequence[Sequence[Path]], records: Sequence[Sequence[Record]]) -> None:
    for seed_folders, seed_records in zip(folders, records, strict=True):
        seeds = [record["seed"] for record in seed_records]
        if len(set(seeds)) > 1:
            listed = " and ".join(f"{folder} ({seed})" for folder, seed in zip(seed_folders, seeds, strict=True))
            raise DataError(f"{listed} have different seeds; compare runs of the same seed")
    if len({seed_records[0]["seed"] for seed_records in records}) < len(records):
        raise DataError(f"{folders[0][0]}: its seed appears twice; give one folder per seed, with {{seed}} in its name")


def _join(seeds: Sequence[int], rows: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    """Put the rows of all seeds together, each named after its seed as well."""
    return {f"{seed}: {name}": row for seed, each in zip(seeds, rows, strict=True) for name, row in each.items()}


def _number_of_folds(folders: Sequence[Path], records: Sequence[Sequence[Record]]) -> int | None:
    """Return the number of folds of cross-validation, None without; each fold may be compared once."""
    folds: set[int | None] = {record["data"].get("folds") for record in _flat(records)}
    if len(folds) > 1:
        raise DataError(
            f"{folders[0]} and others differ in the number of folds ({', '.join(sorted(map(str, folds)))}); "
            "compare runs with the same task.data.folds"
        )
    [count] = folds
    if count is None:
        return None
    tested = [_data_seed(seed_records[0]) % count for seed_records in records]
    if len(set(tested)) < len(tested):
        message = f"two runs test the same fold of {count}; compare runs of seeds 0 to {count - 1}, without data.seed"
        raise DataError(f"{folders[0]}: {message}")
    return count


def _data_seed(record: Record) -> int:
    """Return the seed that draws the rows, and so the tested fold."""
    seed = data_seed(record.get("config") or {})
    return int(record["seed"] if seed is None else seed)


def _require_same_rows(
    folders: Sequence[Path], records: Sequence[Record], rows: Sequence[Mapping[str, object]]
) -> None:
    names = [f"{record['task']}, {record['data'].get('source')}" for record in records]
    for folder, name, run_rows in zip(folders, names, rows, strict=True):
        if name != names[0] or run_rows.keys() != rows[0].keys():
            sizes = f"{len(rows[0])} rows ({names[0]}) and {len(run_rows)} rows ({name})"
            message = f"{folders[0]} and {folder} were tested on different rows: {sizes}; test both on the same files"
            raise DataError(message)
