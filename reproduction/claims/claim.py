"""What a claim, a check and its findings are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from reproduction.runs import Record
from reproduction.sources import Evidence
from retention.report.intervals import Estimate


class Verdict(Enum):
    """What records say of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"
    NOT_RUN = "not yet run"
    NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Finding:
    """What one setting says of a claim.

    Attributes:
        verdict: by the rule of the check.
        measured: the figure that decides.
        setting: rows, encoder and whatever else the figure depends on.
        records: what the figure was worked out from.
    """

    verdict: Verdict
    measured: str = "-"
    setting: str = "-"
    records: tuple[Record, ...] = ()


Check = Callable[[Evidence], Iterable[Finding]]


@dataclass(frozen=True)
class Claim:
    """One statement of the paper.

    Attributes:
        topic: heading it stands under.
        text: the statement.
        source: where the paper makes it.
        check: finds what records say; no finding means that nothing was run.
    """

    topic: str
    text: str
    source: str
    check: Check


def at_least(found: Estimate, bound: float) -> Verdict:
    """Reproduced if the whole interval reaches ``bound``, not if it stays below; undecided across it or without one."""
    if found.above(bound):
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if found.below(bound) else Verdict.UNDECIDED


def not_testable(reason: str) -> Check:
    """A check for what no record of ours could decide."""
    return lambda evidence: [Finding(Verdict.NOT_TESTABLE, reason)]
