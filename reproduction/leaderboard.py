"""All policies of a task beside each other, best first within each budget; ablations of ours are left to Table 3."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from reproduction.comparison import interval, relate, signed
from reproduction.data_provenance import rows_note
from reproduction.paper import ABLATED
from reproduction.runs import (
    DENSE,
    Cells,
    Column,
    Record,
    Row,
    best_dense,
    columns_of,
    mean_of_measured,
    percent,
    points,
    rows_of,
    spread,
)
from reproduction.speeds import measured, turns
from reproduction.tables import Report, Section

_HEADER = (
    *("policy", "rho", "rank", "quality", "seeds", "kept", "FLOPs", "vs dense", "95 %", "share of dense"),
    "measured speed-up",
)
_SPARE = 1.05  # how much more than the median of its budget a policy may spend and still be ranked


def leaderboard(cells: Cells, speeds: Sequence[Record]) -> Report:
    """One section per column of runs: dense first, then budgets from many tokens to few, best quality first."""
    sections = [_section(cells, column, speeds) for column in columns_of(cells)]
    return Report(
        name="leaderboard",
        title="Leaderboard",
        legend=(
            "Headline metric in points: mean ± standard deviation over seeds.",
            "The difference to dense is taken seed by seed, with its 95 % interval where two seeds or more have both;",
            "dense with several settings is its best. A policy that spends over 5 % more FLOPs than the median of its",
            "budget is over it, and has no rank. The ablations of Table 3 stand there alone.",
            "The speed-up stands where a measurement has the same policy, settings, share, encoder, place of removal",
            "and length.",
        ),
        sections=tuple(sections),
    )


def _section(cells: Cells, column: Column, speeds: Sequence[Record]) -> Section:
    rows = rows_of(cells, column, DENSE)
    body = [_line(row, "-", cells[row, column], _base(cells, column, row), column, speeds) for row in rows]
    rivals = [row for row in rows_of(cells, column) if row.policy not in {DENSE, *ABLATED}]
    for rho in sorted({row.rho for row in rivals}, reverse=True):
        ranked = sorted(
            (row for row in rivals if row.rho == rho),
            key=lambda row: (-_mean(cells[row, column]), row.order()),
        )
        spent = {row: _flops(cells[row, column]) for row in ranked}
        limit = _SPARE * median(spent.values())
        means = [_mean(cells[row, column]) for row in ranked if spent[row] <= limit]
        for row in ranked:
            records = cells[row, column]
            # equals share a rank
            rank = str(means.index(_mean(records)) + 1) if spent[row] <= limit else "over budget"
            body.append(_line(row, rank, records, _base(cells, column, row), column, speeds))
    caption = f"{column.task}, {column.monitor}, {column.backbone}"
    return Section(caption, _HEADER, tuple(body), (rows_note(column),))


def _base(cells: Cells, column: Column, row: Row) -> list[Record]:
    """The dense runs that a row stands beside; none beside itself."""
    dense = best_dense(cells, column, beside=row)
    return [] if dense in (None, row) else cells[dense, column]


def _line(
    row: Row, rank: str, records: Sequence[Record], dense: Sequence[Record], column: Column, speeds: Sequence[Record]
) -> tuple[str, ...]:
    values = points(records)
    relation = relate(records, dense) if dense else None
    told = (
        ("-", "-", "-")
        if relation is None
        else (
            signed(relation.difference.mean),
            interval(relation.difference),
            f"{100 * relation.share.mean:.1f} %",
        )
    )
    found = [] if row.policy == DENSE else measured(speeds, records[0], column)
    return (
        row.label(),
        f"{row.rho:g}",
        rank,
        spread(values) if values else "no number",
        str(len(values)),
        percent(mean_of_measured(record["keep_ratio"].get("mean") for record in records)),
        percent(mean_of_measured(record["flops_ratio"] for record in records)),
        *told,
        "-" if row.policy == DENSE else "; ".join(map(_speed, found)) or "not measured",
    )


def _speed(record: Record) -> str:
    return f"{turns(record)} on {record['device']}, batch {record['batch']}"


def _flops(records: Sequence[Record]) -> float:
    return mean_of_measured(record["flops_ratio"] for record in records) or 0.0


def _mean(records: Sequence[Record]) -> float:
    return fmean(points(records) or [0.0])
