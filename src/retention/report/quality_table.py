"""The table of quality that a run leaves, from result records."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from reproduction.runs import (
    DENSE,
    NOT_RUN,
    Cells,
    Column,
    Record,
    Row,
    best_dense,
    columns_of,
    mean_of_measured,
    percent,
    points,
    sort_runs,
    spread,
)
from reproduction.tables import aligned

from retention.errors import DataError


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
    cells = sort_runs(records)
    if not cells:
        raise DataError("no quality records to make a table of; run an experiment first, or give other files")
    rows = sorted({row for row, _ in cells}, key=Row.order)
    columns = columns_of(cells)
    notes = [f"[{number}] {column.note()}" for number, column in enumerate(columns, start=1)]
    legend = "Metric in points: mean ± standard deviation over seeds (number of seeds)."
    return "\n".join([*aligned(_body(rows, columns, cells)), "", legend, *notes]) + "\n"


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
        return [NOT_RUN] * 4
    kept = mean_of_measured(record["keep_ratio"].get("mean") for record in records)
    flops = mean_of_measured(record["flops_ratio"] for record in records)
    return [_score(records), percent(kept), percent(flops), _distance(row, column, cells)]


def _score(records: list[Record]) -> str:
    values = points(records)
    return f"{spread(values)} ({len(values)})" if values else f"no number ({len(records)})"


def _distance(row: Row, column: Column, cells: Cells) -> str:
    if row.policy == DENSE:
        return "-"
    dense, own = best_dense(cells, column, beside=row), points(cells[row, column])
    if dense is None:
        return "dense not run"
    return f"{fmean(own) - fmean(points(cells[dense, column])):+.1f}" if own else "no number"
