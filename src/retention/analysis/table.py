"""Tables of quality from result records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from retention.analysis.variants import variants
from retention.errors import DataError

_NEEDED = ("task", "data", "policy", "backbone", "rho", "seed", "kept_share", "flops_share", "metrics", "monitor")
_NOT_RUN = "not run"
_DENSE = "dense"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """Runs that may be compared: same task, rows, backbone and metric."""

    task: str
    monitor: str
    backbone: str
    source: str
    train: str
    test: str

    def note(self) -> str:
        """What the figures rest on."""
        return f"{self.task}: {self.source}, {self.train} training and {self.test} test rows, {self.backbone}"


@dataclass(frozen=True)
class Row:
    """One policy at one asked share; ``variant`` names the settings in which its runs differ from others of it."""

    policy: str
    rho: float
    variant: str

    def order(self) -> tuple[bool, str, float, str]:
        """Dense first, then by name, from many tokens to few."""
        return self.policy != _DENSE, self.policy, -self.rho, self.variant

    def label(self) -> str:
        """Policy and variant."""
        return f"{self.policy} ({self.variant})" if self.variant else self.policy


Cells = dict[tuple[Row, Column], list[Record]]


def quality_table(records: Iterable[Record]) -> str:
    """A Markdown table, aligned for reading as text: one row per policy and asked share, four columns per task.

    Per task: the headline metric in points (mean over seeds, +- sample standard deviation, number of seeds), the
    achieved kept share and share of FLOPs, and the distance to the dense model in points. Runs on other rows or with
    another backbone get columns of their own; runs of a policy whose settings differ get rows of their own. Of two runs
    with the same seed the later one counts. Dense with several variants is represented by the best of them.

    Args:
        records: result records; other kinds than ``quality`` are left out.

    Returns:
        The table and one line per task saying what its rows are.

    Raises:
        DataError: a record lacks a field, its metric is no share in [0, 1], or there is no quality record at all.
    """
    quality = [record for record in records if record.get("kind") == "quality"]
    if not quality:
        raise DataError("no quality records to make a table of; run an experiment first, or give other files")
    for record in quality:
        _check(record)
    cells = _cells(quality)
    rows = sorted({row for row, _ in cells}, key=Row.order)
    columns = sorted({column for _, column in cells}, key=lambda column: column.note())
    notes = [f"[{number}] {column.note()}" for number, column in enumerate(columns, start=1)]
    legend = "Metric in points: mean ± standard deviation over seeds (number of seeds)."
    return "\n".join([*aligned(_body(rows, columns, cells)), "", legend, *notes]) + "\n"


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


def _cells(records: Sequence[Record]) -> Cells:
    groups: dict[tuple[Column, str, float], list[Record]] = {}
    for record in records:
        groups.setdefault((_column(record), record["policy"], float(record["rho"])), []).append(record)
    cells: Cells = {}
    for (column, policy, rho), members in groups.items():
        for record, variant in zip(members, variants(members), strict=True):
            cells.setdefault((Row(policy, rho, variant), column), []).append(record)
    return {place: _latest_per_seed(members) for place, members in cells.items()}


def _column(record: Record) -> Column:
    data = record["data"]
    source = str(data.get("source") or data.get("name") or "unnamed rows")
    counts = [str(data.get(split, "?")) for split in ("train", "test")]
    return Column(record["task"], record["monitor"], record["backbone"], source, *counts)


def _latest_per_seed(records: list[Record]) -> list[Record]:
    by_seed = {record["seed"]: record for record in sorted(records, key=lambda record: str(record.get("date", "")))}
    return list(by_seed.values())


def _body(rows: list[Row], columns: list[Column], cells: Cells) -> list[list[str]]:
    header = ["policy", "rho"]
    for number, column in enumerate(columns, start=1):
        header += [f"{column.task} {column.monitor} [{number}]", "kept", "FLOPs", "vs dense"]
    body = [header]
    for row in rows:
        line = [row.label(), f"{row.rho:g}"]
        for column in columns:
            line += _entries(row, column, cells)
        body.append(line)
    return body


def _entries(row: Row, column: Column, cells: Cells) -> list[str]:
    records = cells.get((row, column))
    if records is None:
        return [_NOT_RUN] * 4
    kept = _mean(record["kept_share"].get("mean") for record in records)
    flops = _mean(record["flops_share"] for record in records)
    return [_score(records), _percent(kept), _percent(flops), _distance(row, column, cells)]


def _score(records: list[Record]) -> str:
    points = _points(records)
    if not points:
        return f"no number ({len(records)})"
    spread = f" ± {stdev(points):.1f}" if len(points) > 1 else ""
    return f"{fmean(points):.1f}{spread} ({len(points)})"


def _distance(row: Row, column: Column, cells: Cells) -> str:
    if row.policy == _DENSE:
        return "-"
    dense = [
        _points(records) for (other, place), records in cells.items() if place == column and other.policy == _DENSE
    ]
    own = _points(cells[row, column])
    if not any(dense):
        return "dense not run"
    return f"{fmean(own) - max(fmean(points) for points in dense if points):+.1f}" if own else "no number"


def _points(records: list[Record]) -> list[float]:
    """Headline metric times 100; a run that diverged has none."""
    values = (record["metrics"][record["monitor"]] for record in records)
    return [100.0 * value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100.0 * share:.1f} %"


def aligned(body: list[list[str]]) -> list[str]:
    """Markdown lines with every column as wide as its widest cell; the first column left, the others right."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in body]
    widths = [max(3, *(len(line[place]) for line in escaped)) for place in range(len(escaped[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for line in [escaped[0], rule, *escaped[1:]]:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
