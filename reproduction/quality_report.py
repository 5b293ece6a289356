"""Tables 1, 2 and 3: quality of methods and ablations beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from reproduction.comparison import interval, relate, signed
from reproduction.data_provenance import backbone_note, rows_mark, rows_note
from reproduction.paper import (
    ABLATIONS,
    ADAPTIVE,
    BENCHMARKS,
    BUDGETS,
    FULL,
    METHODS,
    SEEDS,
    SOURCE,
    Benchmark,
    Method,
    reported,
)
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
    rows_of,
    spread,
)
from reproduction.tables import Report, Section

_ABSENT = "-"  # the paper has no such row


def quality_report(cells: Cells, rho: float) -> Report:
    """Table 1 (rho 0.5) or Table 2 (rho 0.3).

    One section per benchmark, metric and column of runs: runs on other rows or another encoder are never mixed. Every
    method stands beside our own dense model, and the paper's beside its own.
    """
    number = BUDGETS.index(rho) + 1
    sections = [
        _section(cells, benchmark, metric, column, [(method, rho) for method in METHODS], FULL)
        for benchmark, metric, column in _places(cells)
    ]
    return Report(
        name=f"table{number}",
        title=f"Table {number}: quality at {100 * rho:.0f} % of the tokens",
        legend=_legend("our dense model"),
        sections=tuple(sections),
        overview=_overview(cells, rho),
    )


def ablation_report(cells: Cells) -> Report:
    """Table 3: what each part of the method is worth; every variant stands beside the full method."""
    entries = [(method, rho) for rho in BUDGETS for method in (ADAPTIVE, *ABLATIONS)]
    sections = [_section(cells, *place, entries, ADAPTIVE) for place in _places(cells)]
    legend = (*_legend("the full method at the same rho"), "What the variants cost is in Table 4.")
    return Report("table3", "Table 3: ablations", legend, tuple(sections))


def _places(cells: Cells) -> Iterator[tuple[Benchmark, str, Column | None]]:
    for benchmark in BENCHMARKS:
        columns: Sequence[Column | None] = columns_of(cells, benchmark.task) or [None]
        for column in columns:
            for metric in benchmark.metrics:
                yield benchmark, metric, column


def _legend(reference: str) -> tuple[str, ...]:
    return (
        f"Paper: {SOURCE}.",
        "Points; ours are means ± standard deviation over seeds.",
        f"Relations are to {reference} (in the paper's columns: the paper's own), seed by seed, with the 95 % interval",
        "of the difference where two seeds or more have both.",
        f"A cell without a run says {NOT_RUN!r}; '-' where the paper, or we, have nothing to compare.",
    )


def _section(
    cells: Cells,
    benchmark: Benchmark,
    metric: str,
    column: Column | None,
    entries: Sequence[tuple[Method, float]],
    reference: Method,
) -> Section:
    against = "full" if reference is FULL else "full method"
    header = (
        *("method", "rho", "paper", f"paper vs {against}", "paper share", "ours", "seeds", "ours - paper"),
        *("kept", "FLOPs", f"vs own {'dense' if reference is FULL else 'full method'}", "95 %", "share"),
    )
    rows: list[tuple[str, ...]] = []
    for method, rho in entries:
        told = _paper_cells(method, rho, benchmark.task, metric, reference)
        found = [] if column is None else _found(cells, column, method, rho)
        if column is None or not found:
            rows.append((method.title, f"{rho:g}", *told, NOT_RUN, *[_ABSENT] * 7))
            continue
        for place, row in found:
            label = _label(method, row, place)
            printed = reported(method.title, rho, benchmark.task, metric)
            key = benchmark.metrics[metric]
            rows.append((label, f"{rho:g}", *told, *_own_cells(cells, place, row, column, key, printed, reference)))
    if column is not None and reference is FULL:
        rows += _others(cells, column, benchmark.metrics[metric], entries)
    caption = f"{benchmark.title}, {metric}"
    if column is None:
        return Section(f"{caption}: {NOT_RUN}", header, tuple(rows))
    notes = [rows_note(column), backbone_note(column, benchmark)]
    if benchmark.metrics[metric] != column.monitor:
        notes.append(f"In records: {benchmark.metrics[metric]}")
    return Section(f"{caption}: {column.backbone}{rows_mark(column)}", header, tuple(rows), tuple(notes))


def _found(cells: Cells, column: Column, method: Method, rho: float) -> list[tuple[Column, Row]]:
    """The rows of a method; an architecture's are those of its dense model on the same rows."""
    if method.backbone is not None:
        others = [c for c in columns_of(cells, column.task) if c.backbone == method.backbone and c.same_rows(column)]
        return [(place, row) for place in others if (row := best_dense(cells, place)) is not None]
    if method.policy == DENSE:
        return [(column, row) for row in rows_of(cells, column, DENSE)]
    return [(column, row) for row in rows_of(cells, column, method.policy, rho)]


def _label(method: Method, row: Row, place: Column) -> str:
    variant = f" ({row.variant})" if row.variant else ""
    cut = f" (cut to {place.length} tokens)" if method.backbone is not None and place.length else ""
    return f"{method.title}{variant}{cut}"


def _paper_cells(method: Method, rho: float, task: str, metric: str, reference: Method) -> tuple[str, str, str]:
    value = reported(method.title, rho, task, metric)
    base = reported(reference.title, rho, task, metric)
    if value is None:
        return _ABSENT, _ABSENT, _ABSENT
    if base is None or method is reference:
        return f"{value:.1f}", _ABSENT, _ABSENT
    return f"{value:.1f}", signed(value - base), f"{100 * value / base:.1f} %"


def _own_cells(
    cells: Cells,
    place: Column,
    row: Row,
    column: Column,
    metric: str,
    printed: float | None,
    reference: Method,
) -> tuple[str, ...]:
    records = cells[row, place]
    values = points(records, metric)
    if not values:
        return ("no number", str(len(records)), *[_ABSENT] * 6)
    gap = _ABSENT if printed is None else signed(fmean(values) - printed)
    kept = mean_of_measured(record["keep_ratio"].get("mean") for record in records)
    flops = mean_of_measured(record["flops_ratio"] for record in records)
    base = _reference(cells, column, row, metric, reference)
    relation = None if base is None or base is records else relate(records, base, metric)
    told = (
        (_ABSENT, _ABSENT, _ABSENT)
        if relation is None
        else (
            signed(relation.difference.mean),
            interval(relation.difference),
            f"{100 * relation.share.mean:.1f} %",
        )
    )
    return (spread(values), f"{len(values)} of {SEEDS}", gap, percent(kept), percent(flops), *told)


def _reference(cells: Cells, column: Column, row: Row, metric: str, reference: Method) -> list[Record] | None:
    """The best dense run, or the full method at the row's share: its variant of the same name, else the headline."""
    if reference is FULL:
        dense = best_dense(cells, column, metric, beside=row)
        return None if dense is None else cells[dense, column]
    full = rows_of(cells, column, reference.policy, row.rho)
    chosen = next((other for other in full if other.variant == row.variant), headline(cells, column, full))
    return None if chosen is None else cells[chosen, column]


def headline(cells: Cells, column: Column, rows: Sequence[Row]) -> Row | None:
    """Of several settings of one method the one with most seeds, then the latest; scores play no part."""
    dated = {row: max(str(record.get("date", "")) for record in cells[row, column]) for row in rows}
    return max(rows, key=lambda row: (len(cells[row, column]), dated[row]), default=None)


def _others(
    cells: Cells, column: Column, metric: str, entries: Sequence[tuple[Method, float]]
) -> Iterator[tuple[str, ...]]:
    """Policies of ours at the same share that the paper has no row for, ablations aside."""
    known = {method.policy for method in (*METHODS, *ABLATIONS)}
    rho = entries[0][1]
    for row in rows_of(cells, column, rho=rho):
        if row.policy not in known:
            own = _own_cells(cells, column, row, column, metric, None, FULL)
            yield (row.label(), f"{rho:g}", _ABSENT, _ABSENT, _ABSENT, *own)


def _overview(cells: Cells, rho: float) -> Section:
    """The paper's own layout: methods down, benchmarks across, ``paper / ours`` in each cell."""
    places = list(_places(cells))
    header = ["method"]
    for benchmark, metric, column in places:
        tail = f" [{column.backbone}{rows_mark(column)}]" if column is not None else ""
        header.append(f"{benchmark.title} {metric}{tail}")
    rows = [
        (method.title, *(_short(cells, method, rho, benchmark, metric, column) for benchmark, metric, column in places))
        for method in METHODS
    ]
    notes = ("paper / ours; of several settings the one with most seeds, then the latest, all are below",)
    return Section("Overview", tuple(header), tuple(rows), notes)


def _short(cells: Cells, method: Method, rho: float, benchmark: Benchmark, metric: str, column: Column | None) -> str:
    printed = reported(method.title, rho, benchmark.task, metric)
    paper = _ABSENT if printed is None else f"{printed:.1f}"
    found = [] if column is None else _found(cells, column, method, rho)
    if not found:
        return f"{paper} / {NOT_RUN}"
    place = found[0][0]
    chosen = headline(cells, place, [row for spot, row in found if spot == place])
    values = [] if chosen is None else points(cells[chosen, place], benchmark.metrics[metric])
    return f"{paper} / {spread(values) if values else 'no number'}"
