"""Compare the runs of a method with those of its reference, seed by seed where both have the seed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from retention.report.grouping import RunGroup
from retention.report.intervals import Estimate, estimate


@dataclass(frozen=True)
class Comparison:
    """Points of a method relative to those of its reference.

    Attributes:
        difference: method minus reference in points; no interval without two common seeds.
        ratio: method / reference; likewise.
    """

    difference: Estimate
    ratio: Estimate


def compare(group: RunGroup, reference: RunGroup | None, metric: str | None = None) -> Comparison | None:
    """Compare two groups of runs in a metric, by default the headline metric.

    Without a common seed the means are compared.

    Returns:
        The comparison; None if there is no other group to compare with, a side has no number, or the reference is 0.
    """
    if reference is None or reference is group:
        return None
    ours, theirs = group.points_by_seed(metric), reference.points_by_seed(metric)
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs and ours and theirs:
        pairs = [(fmean(ours.values()), fmean(theirs.values()))]
    if not pairs or any(value == 0.0 for _, value in pairs):
        return None
    return Comparison(
        difference=estimate([value - other for value, other in pairs]),
        ratio=estimate([value / other for value, other in pairs]),
    )


def comparison_cells(comparison: Comparison | None, missing: str = "-") -> tuple[str, str, str]:
    """Format difference, interval of the difference and ratio; ``missing`` stands for an absent difference."""
    if comparison is None:
        return missing, "-", "-"
    difference, ratio = comparison.difference, comparison.ratio
    return signed(difference.mean), interval(difference), f"{100 * ratio.mean:.1f} %"


def signed(value: float) -> str:
    """Format points with their sign."""
    return f"{value:+.1f}"


def interval(value: Estimate, scale: float = 1.0, sign: str = "+") -> str:
    """Format the 95 % interval, "-" if there is none; ``sign`` is "+" to show both signs, "" for minus only."""
    if value.low is None or value.high is None:
        return "-"
    return f"[{scale * value.low:{sign}.1f}, {scale * value.high:{sign}.1f}]"
