"""Build Tables 1, 2 and 3: quality of methods and ablations beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from reproduction.comparison import compare, comparison_cells, signed
from reproduction.data_provenance import backbone_note, data_note, title_mark
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
from reproduction.tables import Report, Table
from retention.report.grouping import (
    DENSE,
    NOT_RUN,
    EvaluationSetup,
    RunGroup,
    Runs,
    headline,
    mean_and_deviation,
    percent,
)

NO_REFERENCE = "no like reference"
_EMPTY = "-"


def quality_report(runs: Runs, rho: float) -> Report:
    """Build Table 1 (rho 0.5) or Table 2 (rho 0.3): one table per benchmark, metric and setup.

    Every method is compared with our dense model that was trained alike, and the paper's with the paper's.
    """
    number = BUDGETS.index(rho) + 1
    tables = [
        _table(runs, benchmark, metric, setup, [(method, rho) for method in METHODS], FULL)
        for benchmark, metric, setup in _benchmark_setups(runs)
    ]
    return Report(
        name=f"table{number}",
        title=f"Table {number}: quality at {100 * rho:.0f} % of the tokens",
        legend=_legend("our dense model that was trained alike"),
        tables=tables,
        overview=_overview(runs, rho),
    )


def ablation_report(runs: Runs) -> Report:
    """Build Table 3: every ablation is compared with the full method."""
    entries = [(method, rho) for rho in BUDGETS for method in (ADAPTIVE, *ABLATIONS)]
    tables = [_table(runs, *key, entries, ADAPTIVE) for key in _benchmark_setups(runs)]
    legend = f"{_legend('the full method at the same rho')} The cost of the ablations is in Table 4."
    return Report("table3", "Table 3: ablations", legend, tables)


def _benchmark_setups(runs: Runs) -> Iterator[tuple[Benchmark, str, EvaluationSetup | None]]:
    for benchmark in BENCHMARKS:
        setups: Sequence[EvaluationSetup | None] = runs.setups(benchmark.task) or [None]
        for setup in setups:
            for metric in benchmark.metrics:
                yield benchmark, metric, setup


def _legend(reference: str) -> str:
    return (
        f"Paper: {SOURCE}. Points; ours are means ± standard deviation over seeds. Differences and ratios are relative "
        f"to {reference} (in the paper's columns: to the paper's own), seed by seed, with the 95 % interval of the "
        f"difference where two seeds or more have both. {NOT_RUN!r}: there is no run; {NO_REFERENCE!r}: no dense model "
        f"was trained alike; '-': nothing to compare."
    )


def _table(
    runs: Runs,
    benchmark: Benchmark,
    metric: str,
    setup: EvaluationSetup | None,
    entries: Sequence[tuple[Method, float]],
    reference: Method,
) -> Table:
    theirs, ours = ("full", "dense") if reference is FULL else ("full method", "full method")
    header = (
        *("method", "rho", "paper", f"paper vs {theirs}", f"paper % of {theirs}", "ours", "seeds", "ours - paper"),
        *("keep ratio", "FLOPs ratio", f"vs our {ours}", "95 % interval", f"% of {ours}"),
    )
    key = benchmark.metrics[metric]
    rows: list[tuple[str, ...]] = []
    for method, rho in entries:
        points = reported(method.title, rho, benchmark.task, metric)
        paper = _paper_cells(
            points, None if method is reference else reported(reference.title, rho, benchmark.task, metric)
        )
        groups = [] if setup is None else _groups_of(runs, setup, method, rho)
        if setup is None or not groups:
            rows.append((method.title, f"{rho:g}", *paper, NOT_RUN, *[_EMPTY] * 7))
        for group in groups:
            cells = _our_cells(runs, setup, group, key, points, reference)
            rows.append((_label(method, group), f"{rho:g}", *paper, *cells))
    if setup is not None and reference is FULL:
        rows += _other_policies(runs, setup, entries[0][1], key)
    caption = f"{benchmark.title}, {metric}"
    if setup is None:
        return Table(f"{caption}: {NOT_RUN}", header, rows)
    notes = [data_note(setup), backbone_note(setup, benchmark)]
    if key != setup.monitor:
        notes.append(f"Metric in records: {key}")
    return Table(f"{caption}: {setup.backbone}{title_mark(setup)}", header, rows, notes)


def _groups_of(runs: Runs, setup: EvaluationSetup, method: Method, rho: float) -> list[RunGroup]:
    """Return the groups of a method; for another architecture, its dense model on the same data."""
    if method.backbone is not None:
        others = [s for s in runs.setups(setup.task) if s.backbone == method.backbone and s.same_data(setup)]
        return [group for other in others if (group := headline(runs.groups(other, DENSE))) is not None]
    return runs.groups(setup, method.policy, None if method.policy == DENSE else rho)


def _label(method: Method, group: RunGroup) -> str:
    variant = f" ({group.variant})" if group.variant else ""
    length = group.setup.length
    return f"{method.title}{variant}{f' (cut to {length} tokens)' if method.backbone is not None and length else ''}"


def _paper_cells(points: float | None, reference: float | None) -> tuple[str, str, str]:
    if points is None:
        return _EMPTY, _EMPTY, _EMPTY
    if reference is None:
        return f"{points:.1f}", _EMPTY, _EMPTY
    return f"{points:.1f}", signed(points - reference), f"{100 * points / reference:.1f} %"


def _our_cells(
    runs: Runs,
    setup: EvaluationSetup | None,
    group: RunGroup,
    metric: str,
    paper: float | None,
    reference: Method,
) -> tuple[str, ...]:
    values = group.points(metric)
    if not values:
        return ("no number", str(len(group.records)), *[_EMPTY] * 6)
    return (
        mean_and_deviation(values),
        f"{len(values)} of {SEEDS}",
        _EMPTY if paper is None else signed(fmean(values) - paper),
        percent(group.keep_ratio),
        percent(group.flops_ratio),
        *_reference_cells(runs, setup, group, metric, reference),
    )


def _reference_cells(
    runs: Runs, setup: EvaluationSetup | None, group: RunGroup, metric: str, reference: Method
) -> tuple[str, str, str]:
    """Compare with dense runs, or with the full method: the variant of the same name, else the headline."""
    if reference is not FULL:
        full = runs.groups(group.setup, reference.policy, group.rho)
        same_variant = next((other for other in full if other.variant == group.variant), headline(full))
        return comparison_cells(compare(group, same_variant, metric))
    if group.setup != setup:  # another architecture
        return comparison_cells(compare(group, headline(runs.groups(setup, DENSE)), metric))
    dense = runs.dense_reference(group, metric)
    missing = NO_REFERENCE if dense is None and runs.groups(setup, DENSE) else _EMPTY
    return comparison_cells(compare(group, dense, metric), missing)


def _other_policies(runs: Runs, setup: EvaluationSetup, rho: float, metric: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of policies that the paper does not report."""
    in_paper = {method.policy for method in (*METHODS, *ABLATIONS)}
    for group in runs.groups(setup, rho=rho):
        if group.policy not in in_paper:
            yield (group.label, f"{rho:g}", *[_EMPTY] * 3, *_our_cells(runs, setup, group, metric, None, FULL))


def _overview(runs: Runs, rho: float) -> Table:
    """Arrange the figures as the paper does: methods down, benchmarks across, ``paper / ours`` in each cell."""
    keys = list(_benchmark_setups(runs))
    header = ["method"]
    for benchmark, metric, setup in keys:
        data = f" [{setup.backbone}{title_mark(setup)}]" if setup is not None else ""
        header.append(f"{benchmark.title} {metric}{data}")
    rows = [[method.title, *(_overview_cell(runs, method, rho, *key) for key in keys)] for method in METHODS]
    note = "paper / ours; of several variants the one with most seeds, then the latest; all are in the tables below"
    return Table("Overview", header, rows, (note,))


def _overview_cell(
    runs: Runs, method: Method, rho: float, benchmark: Benchmark, metric: str, setup: EvaluationSetup | None
) -> str:
    points = reported(method.title, rho, benchmark.task, metric)
    paper = _EMPTY if points is None else f"{points:.1f}"
    groups = [] if setup is None else _groups_of(runs, setup, method, rho)
    group = headline([group for group in groups if group.setup == groups[0].setup])
    if group is None:
        return f"{paper} / {NOT_RUN}"
    values = group.points(benchmark.metrics[metric])
    return f"{paper} / {mean_and_deviation(values) if values else 'no number'}"
