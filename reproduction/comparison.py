"""One row beside another of the same column: difference in points and share, seed by seed where both have the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from reproduction.runs import Record, paired, points
from retention.report.intervals import Estimate, estimate


@dataclass(frozen=True)
class Relation:
    """How a method stands to its reference.

    Attributes:
        difference: points of the method minus points of the reference; no interval without two common seeds.
        share: method / reference; likewise.
    """

    difference: Estimate
    share: Estimate


def relate(own: Sequence[Record], reference: Sequence[Record], metric: str | None = None) -> Relation | None:
    """Compare two groups of runs.

    Without a common seed the means are compared. None where a side has no number or the reference is 0.
    """
    pairs = paired(own, reference, metric)
    left, right = points(own, metric), points(reference, metric)
    if not pairs and left and right:
        pairs = [(fmean(left), fmean(right))]
    if not pairs or any(value == 0.0 for _, value in pairs):
        return None
    return Relation(
        estimate([one - other for one, other in pairs]),
        estimate([one / other for one, other in pairs]),
    )


def signed(value: float | None) -> str:
    """Points with their sign; a dash for none."""
    return "-" if value is None else f"{value:+.1f}"


def interval(found: Estimate, scale: float = 1.0, sign: str = "+") -> str:
    """The 95 % interval; a dash where there is none. ``sign`` is "+" to show both signs, "" otherwise."""
    if found.low is None or found.high is None:
        return "-"
    return f"[{scale * found.low:{sign}.1f}, {scale * found.high:{sign}.1f}]"
