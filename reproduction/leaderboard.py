"""Rank all policies of a setup within each keep ratio; ablations of our method are reported in Table 3 only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from reproduction.comparison import compare, comparison_cells
from reproduction.data_provenance import data_note
from reproduction.paper import ABLATION_POLICIES
from reproduction.quality_report import NO_REFERENCE
from reproduction.speeds import format_speedup, matching_speeds
from reproduction.tables import Report, Table
from retention.report.grouping import DENSE, EvaluationSetup, Record, RunGroup, Runs, mean_and_deviation, percent

_FLOPS_TOLERANCE = 1.05  # a policy may spend this much more than the median of its keep ratio and still be ranked


@dataclass(frozen=True)
class LeaderboardEntry:
    """A row of the leaderboard.

    Attributes:
        group: the runs.
        rank: rank within the keep ratio, "-" for dense.
        comparison: difference from the dense model, its interval, and the ratio, as text.
        speeds: inference measurements of the same method.
    """

    group: RunGroup
    rank: str
    comparison: tuple[str, str, str]
    speeds: Sequence[Record]


@dataclass(frozen=True)
class LeaderboardColumn:
    """A column of the leaderboard: its header and the text of its cells."""

    header: str
    cell: Callable[[LeaderboardEntry], str]


def _score(entry: LeaderboardEntry) -> str:
    values = entry.group.points()
    return mean_and_deviation(values) if values else "no number"


def _speedup(entry: LeaderboardEntry) -> str:
    if entry.group.policy == DENSE:
        return "-"
    measured = [f"{format_speedup(r)} on {r['device']}, batch {r['batch']}" for r in entry.speeds]
    return "; ".join(measured) or "not measured"


COLUMNS = (
    LeaderboardColumn("policy", lambda entry: entry.group.label),
    LeaderboardColumn("rho", lambda entry: f"{entry.group.rho:g}"),
    LeaderboardColumn("rank", lambda entry: entry.rank),
    LeaderboardColumn("quality", _score),
    LeaderboardColumn("seeds", lambda entry: str(len(entry.group.points()))),
    LeaderboardColumn("keep ratio", lambda entry: percent(entry.group.keep_ratio)),
    LeaderboardColumn("FLOPs ratio", lambda entry: percent(entry.group.flops_ratio)),
    LeaderboardColumn("vs dense", lambda entry: entry.comparison[0]),
    LeaderboardColumn("95 % interval", lambda entry: entry.comparison[1]),
    LeaderboardColumn("% of dense", lambda entry: entry.comparison[2]),
    LeaderboardColumn("measured speedup", _speedup),
)


def leaderboard(runs: Runs, speeds: Sequence[Record], columns: Sequence[LeaderboardColumn] = COLUMNS) -> Report:
    """Build one table per setup: dense first, then keep ratios from high to low, best quality first."""
    tables = []
    for setup in runs.setups():
        rows = [[column.cell(entry) for column in columns] for entry in _entries(runs, setup, speeds)]
        caption = f"{setup.task}, {setup.monitor}, {setup.backbone}"
        tables.append(Table(caption, [column.header for column in columns], rows, (data_note(setup),)))
    return Report(
        name="leaderboard",
        title="Leaderboard",
        legend=(
            "Headline metric in points: mean ± standard deviation over seeds. The difference from the dense model that "
            "was trained alike is taken seed by seed, with its 95 % interval where two seeds or more have both. A "
            "policy that spends over 5 % more FLOPs than the median of its keep ratio is over budget and has no rank. "
            "The ablations of Table 3 are left out. Speedups are of measurements with the same policy, settings, keep "
            "ratio, encoder, pruning location and length."
        ),
        tables=tables,
    )


def _entries(runs: Runs, setup: EvaluationSetup, speeds: Sequence[Record]) -> list[LeaderboardEntry]:
    entries = [_entry(runs, group, "-", speeds) for group in runs.groups(setup, DENSE)]
    pruned = [group for group in runs.groups(setup) if group.policy not in {DENSE, *ABLATION_POLICIES}]
    for rho in dict.fromkeys(sorted((group.rho for group in pruned), reverse=True)):
        groups = sorted((group for group in pruned if group.rho == rho), key=lambda g: (-_mean(g), g.sort_key))
        limit = _FLOPS_TOLERANCE * median(group.flops_ratio or 0.0 for group in groups)
        within = [(group.flops_ratio or 0.0) <= limit for group in groups]
        means = [_mean(group) for group, ranked in zip(groups, within, strict=True) if ranked]
        for group, ranked in zip(groups, within, strict=True):
            rank = str(means.index(_mean(group)) + 1) if ranked else "over budget"  # equal means share a rank
            entries.append(_entry(runs, group, rank, speeds))
    return entries


def _entry(runs: Runs, group: RunGroup, rank: str, speeds: Sequence[Record]) -> LeaderboardEntry:
    dense = runs.dense_reference(group)
    missing = NO_REFERENCE if dense is None and runs.groups(group.setup, DENSE) else "-"
    comparison = comparison_cells(compare(group, dense), missing)
    return LeaderboardEntry(group, rank, comparison, matching_speeds(speeds, group))


def _mean(group: RunGroup) -> float:
    return fmean(group.points() or [0.0])
