"""Define claims, their checks, and the findings of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from reproduction.sources import RecordSet
from retention.report.grouping import Record
from retention.report.intervals import Estimate


class Verdict(Enum):
    """Outcome of a check."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True)
class Finding:
    """Outcome of a check on one setup.

    Attributes:
        verdict: outcome by the rule of the check.
        measured: the figure that decides.
        setup: data, encoder and whatever else the figure depends on.
        records: records that the figure was computed from.
    """

    verdict: Verdict
    measured: str = "-"
    setup: str = "-"
    records: tuple[Record, ...] = ()


Check = Callable[[RecordSet], Iterable[Finding]]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes:
        topic: heading that the claim is listed under.
        text: the statement.
        source: table or section of the paper.
        check: yields a finding per setup; none if nothing was run.
    """

    topic: str
    text: str
    source: str
    check: Check


def at_least(value: Estimate, bound: float) -> Verdict:
    """Return reproduced if the whole interval is at or above ``bound``, not reproduced if below, else inconclusive."""
    if value.above(bound):
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if value.below(bound) else Verdict.INCONCLUSIVE


def not_testable(reason: str) -> Check:
    """Return a check for a claim that no record could decide."""
    return lambda records: [Finding(Verdict.NOT_TESTABLE, reason)]
