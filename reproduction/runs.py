"""Quality records sorted into what may be compared: columns of equal rows and encoder, rows of equal method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from reproduction.paper import SEEDS
from retention.errors import DataError
from retention.records.identity import settings, variants

DENSE = "dense"
NOT_RUN = "not run"
_NEEDED = ("task", "data", "policy", "backbone", "rho", "seed", "keep_ratio", "flops_ratio", "metrics", "monitor")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """Runs that may be compared: same task, rows, backbone and metric.

    ``length`` is the number of tokens that rows are cut to, "" where the record does not say.
    """

    task: str
    monitor: str
    backbone: str
    source: str
    train: str
    test: str
    length: str

    def note(self) -> str:
        """What the figures rest on."""
        cut = f" cut to {self.length} tokens" if self.length else ""
        return f"{self.task}: {self.source}, {self.train} training and {self.test} test rows{cut}, {self.backbone}"

    def same_rows(self, other: Column) -> bool:
        """Whether two columns differ in nothing but the encoder and how much of a row it reads."""
        return replace(self, backbone="", length="") == replace(other, backbone="", length="")


@dataclass(frozen=True)
class Row:
    """One policy at one asked share; ``variant`` names the settings in which its runs differ from others of it."""

    policy: str
    rho: float
    variant: str

    def order(self) -> tuple[bool, str, float, str]:
        """Dense first, then by name, from many tokens to few."""
        return self.policy != DENSE, self.policy, -self.rho, self.variant

    def label(self) -> str:
        """Policy and variant."""
        return f"{self.policy} ({self.variant})" if self.variant else self.policy


Cells = dict[tuple[Row, Column], list[Record]]


def sort_runs(records: Iterable[Record]) -> Cells:
    """The quality records among ``records`` by row and column, one per seed: of two with the same seed the later one.

    Raises:
        DataError: a record lacks a field, or its headline metric is missing or no share in [0, 1].
    """
    groups: dict[tuple[Column, str, float], list[Record]] = {}
    for record in records:
        if record.get("kind") == "quality":
            _check(record)
            groups.setdefault((_column(record), record["policy"], float(record["rho"])), []).append(record)
    cells: Cells = {}
    for (column, policy, rho), members in groups.items():
        for record, variant in zip(members, variants(members), strict=True):
            cells.setdefault((Row(policy, rho, variant), column), []).append(record)
    return {place: _latest_per_seed(members) for place, members in cells.items()}


def columns_of(cells: Cells, task: str | None = None) -> list[Column]:
    """All columns, or those of one task, in the order of their notes."""
    return sorted({column for _, column in cells if task in (None, column.task)}, key=lambda column: column.note())


def rows_of(cells: Cells, column: Column, policy: str | None = None, rho: float | None = None) -> list[Row]:
    """The rows that a column has, or those of one policy or asked share."""
    found = {row for row, place in cells if place == column and policy in (None, row.policy) and rho in (None, row.rho)}
    return sorted(found, key=Row.order)


def best_dense(cells: Cells, column: Column, metric: str | None = None, *, beside: Row | None = None) -> Row | None:
    """The dense row with the highest mean; None where no dense run has a number.

    A row with fewer seeds than ``SEEDS`` counts only where none has more: one lucky seed is no reference. Dense runs
    trained for as many epochs as the row ``beside`` go before others.
    """
    found = {row: points(cells[row, column], metric) for row in rows_of(cells, column, DENSE)}
    found = {row: values for row, values in found.items() if values}
    if beside is not None:
        epochs = _epochs(cells[beside, column])
        found = {row: values for row, values in found.items() if _epochs(cells[row, column]) == epochs} or found
    enough = min(SEEDS, max(map(len, found.values()), default=0))
    return max(
        (row for row, values in found.items() if len(values) >= enough),
        key=lambda row: fmean(found[row]),
        default=None,
    )


def _epochs(records: Sequence[Record]) -> Any:
    """Of the first of them, None where it does not say; other epochs are another variant, hence another row."""
    return settings(records[0].get("config") or {}).get("task.epochs")


def points(records: Iterable[Record], metric: str | None = None) -> list[float]:
    """A metric times 100, by default the headline; a run that diverged or did not measure it has none."""
    return list(points_by_seed(records, metric).values())


def points_by_seed(records: Iterable[Record], metric: str | None = None) -> dict[int, float]:
    """Seed -> metric times 100."""
    values = {record["seed"]: record["metrics"].get(metric or record["monitor"]) for record in records}
    return {seed: 100.0 * value for seed, value in values.items() if value is not None}


def paired(own: Iterable[Record], other: Iterable[Record], metric: str | None = None) -> list[tuple[float, float]]:
    """The points of both sides for every seed that both have."""
    left, right = points_by_seed(own, metric), points_by_seed(other, metric)
    return [(left[seed], right[seed]) for seed in sorted(left.keys() & right.keys())]


def mean_of_measured(values: Iterable[float | None]) -> float | None:
    """Mean of the values that were measured; None if none was."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, the latter from two values on."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def percent(share: float | None) -> str:
    """A share in per cent, or that it was not measured."""
    return "not measured" if share is None else f"{100.0 * share:.1f} %"


def _check(record: Record) -> None:
    name = f"quality record of {record.get('date', 'unknown date')}"
    missing = [field for field in _NEEDED if field not in record]
    if missing:
        raise DataError(f"{name}: lacks {', '.join(missing)}; it cannot be put into a table")
    monitor, metrics = record["monitor"], record["metrics"]
    value = metrics.get(monitor)
    if value is not None and not 0.0 <= value <= 1.0:
        raise DataError(f"{name}: metric {monitor} is {value}; metrics are stored as shares in [0, 1]")
    if monitor not in metrics:
        raise DataError(f"{name}: has no metric {monitor!r}, its monitor; it has {', '.join(metrics) or 'none'}")


def _column(record: Record) -> Column:
    data = record["data"]
    source = str(data.get("source") or data.get("name") or "unnamed rows")
    return Column(
        task=record["task"],
        monitor=record["monitor"],
        backbone=record["backbone"],
        source=source,
        train=str(data.get("train", "?")),
        test=str(data.get("test", "?")),
        length=str(data.get("max_length") or ""),
    )


def _latest_per_seed(records: list[Record]) -> list[Record]:
    by_seed = {record["seed"]: record for record in sorted(records, key=lambda record: str(record.get("date", "")))}
    return [by_seed[seed] for seed in sorted(by_seed)]
