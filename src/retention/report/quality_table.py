"""Build the quality table of runs from their result records."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from retention.errors import DataError
from retention.report.grouping import (
    DENSE,
    NOT_RUN,
    EvaluationSetup,
    Record,
    RunGroup,
    Runs,
    group_runs,
    mean_and_deviation,
    percent,
)
from retention.report.tables import markdown_table, text_frame

_LEGEND = "Metric in points: mean ± standard deviation over seeds (number of seeds)."


def quality_table(records: Iterable[Record]) -> str:
    """Build a Markdown table with one row per policy and target keep ratio, and four columns per setup.

    The four columns are the headline metric in points (mean, sample standard deviation and number of seeds), the
    achieved keep ratio, the FLOPs ratio, and the difference in points from the dense model that was trained alike.
    Runs on other data or with another encoder get columns of their own; runs of a policy whose settings differ get
    rows of their own. Of two runs with the same seed the later one counts.

    Args:
        records: result records; other kinds than ``quality`` are left out.

    Returns:
        The table, and one line per setup that describes its data.

    Raises:
        DataError: a record lacks a field, its metric is outside [0, 1], or there is no quality record.
    """
    runs = group_runs(records)
    if not runs.all:
        raise DataError("no quality records to make a table of; run an experiment first, or give other files")
    setups = runs.setups()
    header = ["policy", "rho"]
    for number, setup in enumerate(setups, start=1):
        header += [f"{setup.task} {setup.monitor} [{number}]", "keep ratio", "FLOPs ratio", "vs dense"]
    methods = dict.fromkeys(
        (group.policy, group.rho, group.variant) for group in sorted(runs.all, key=lambda group: group.sort_key)
    )
    body = []
    for policy, rho, variant in methods:
        groups = {group.setup: group for group in runs.groups(policy=policy, rho=rho) if group.variant == variant}
        label = next(iter(groups.values())).label
        body.append([label, f"{rho:g}", *(cell for setup in setups for cell in _cells(runs, setup, groups))])
    notes = [f"[{number}] {setup.describe()}" for number, setup in enumerate(setups, start=1)]
    return "\n".join([markdown_table(text_frame(header, body)), "", _LEGEND, *notes]) + "\n"


def _cells(runs: Runs, setup: EvaluationSetup, groups: dict[EvaluationSetup, RunGroup]) -> list[str]:
    group = groups.get(setup)
    if group is None:
        return [NOT_RUN] * 4
    values = group.points()
    score = f"{mean_and_deviation(values)} ({len(values)})" if values else f"no number ({len(group.records)})"
    return [score, percent(group.keep_ratio), percent(group.flops_ratio), _difference_from_dense(runs, group)]


def _difference_from_dense(runs: Runs, group: RunGroup) -> str:
    if group.policy == DENSE:
        return "-"
    if not any(dense.points() for dense in runs.groups(group.setup, DENSE)):
        return "dense not run"
    dense = runs.dense_reference(group)
    if dense is None:
        return "no like reference"
    values = group.points()
    return f"{fmean(values) - fmean(dense.points()):+.1f}" if values else "no number"
