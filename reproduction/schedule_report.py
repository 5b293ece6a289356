"""Compare the keep ratios that the paper lists (Tables 5-6) with the linear schedule of the same mean keep ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reproduction.comparison import compare, comparison_cells
from reproduction.data_provenance import data_note
from reproduction.paper import ADAPTIVE, PAPER_KEEP_RATIOS, SOURCE
from reproduction.quality_report import NO_REFERENCE
from reproduction.tables import Report, Table
from retention.report.grouping import NOT_RUN, RunGroup, Runs, headline, mean_and_deviation, percent

_HEADER = ("schedule", "rho", "seeds", "keep ratio", "FLOPs ratio", "points", "- linear", "95 % interval", "ratio")


def schedule_report(runs: Runs) -> Report:
    """Build one table per setup in which lists of the paper were run; rows are lists and their linear schedules."""
    tables = []
    for setup in runs.setups():
        listed = [group for group in runs.groups(setup, ADAPTIVE.policy) if paper_list(group) is not None]
        rows = [row for group in listed for row in _rows(runs, group)]
        if rows:
            tables.append(Table(f"{setup.task}, {setup.backbone}", _HEADER, rows, (data_note(setup),)))
    empty = [Table(NOT_RUN, _HEADER, [["paper's lists", *[NOT_RUN] * (len(_HEADER) - 1)]])]
    return Report(
        name="schedules",
        title="The paper's keep ratios beside the linear schedule",
        legend=(
            f"Paper: {SOURCE}, Tables 5-6. Runs of `sweep=table5_30`, `table5_50`, `table6_30` and `table6_50`: the "
            "same mean keep ratio over the gates, so that both spend nearly the same FLOPs (measured, see the column). "
            "Only runs trained alike are compared, seed by seed."
        ),
        tables=tables or empty,
    )


def paper_list(group: RunGroup) -> str | None:
    """Return the name of the paper's list that a group ran with, None for other schedules."""
    schedule = _schedule(group)
    if not isinstance(schedule, Sequence) or isinstance(schedule, str):
        return None
    for task, lists in PAPER_KEEP_RATIOS.items():
        for rho, ratios in lists.items():
            if [round(100.0 * float(each), 1) for each in schedule] == list(ratios[:-1]):
                return f"paper, {task} at {100 * rho:.0f} %"
    return None


def _rows(runs: Runs, group: RunGroup) -> Iterator[list[str]]:
    alike = [
        other
        for other in runs.groups(group.setup, ADAPTIVE.policy, group.rho)
        if _schedule(other) == "linear" and other.training_settings() == group.training_settings()
    ]
    linear = headline(alike)
    comparison = compare(group, linear)
    yield [*_cells(str(paper_list(group)), group), *comparison_cells(comparison, NO_REFERENCE)]
    if linear is not None:
        yield [*_cells("linear", linear), "-", "-", "-"]


def _cells(label: str, group: RunGroup) -> list[str]:
    points = group.points()
    score = mean_and_deviation(points) if points else "no number"
    ratios = (percent(group.keep_ratio), percent(group.flops_ratio))
    return [label, f"{group.rho:g}", str(len(group.records)), *ratios, score]


def _schedule(group: RunGroup) -> object:
    return ((group.records[0].get("config") or {}).get("retention") or {}).get("schedule", "linear")
