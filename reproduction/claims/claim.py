"""Define claims, their checks, and the findings of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from reproduction.sources import RecordSet
from retention.report.grouping import Record
from retention.report.intervals import Estimate

BY_CONSTRUCTION = "Properties that hold by construction"  # topic that is not counted among the paper's claims


class Verdict(Enum):
    """Outcome of a check."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    MIXED = "mixed"
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
        weight: amount of evidence, to choose one finding of a claim: compared from the first number on, larger is more.
            Outcomes play no part in it.
        random: for a share of the dense model's quality, that of random pruning in the same setup.
    """

    verdict: Verdict
    measured: str = "-"
    setup: str = "-"
    records: tuple[Record, ...] = ()
    weight: tuple[float, ...] = ()
    random: str | None = None


Check = Callable[[RecordSet], Iterable[Finding]]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper.

    Attributes:
        topic: heading that the claim is listed under.
        text: the statement.
        source: table or section of the paper.
        check: yields a finding per setup; none if nothing was run.
        up_to: True if the statement is "up to": one setup that reaches it is enough.
    """

    topic: str
    text: str
    source: str
    check: Check
    up_to: bool = False


def at_least(value: Estimate, bound: float) -> Verdict:
    """Return reproduced if the whole interval is at or above ``bound``, not reproduced if below, else inconclusive."""
    if value.above(bound):
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if value.below(bound) else Verdict.INCONCLUSIVE


def overall_verdict(claim: Claim, findings: Sequence[Finding]) -> Verdict:
    """Return the verdict of a claim over all its setups: mixed if it is reproduced in some and not in others."""
    verdicts = {finding.verdict for finding in findings}
    decided = verdicts & {Verdict.REPRODUCED, Verdict.NOT_REPRODUCED}
    if len(decided) == 2:
        return Verdict.REPRODUCED if claim.up_to else Verdict.MIXED
    if decided:
        return decided.pop()
    order = (Verdict.INCONCLUSIVE, Verdict.NOT_TESTABLE, Verdict.NOT_RUN)
    return next((verdict for verdict in order if verdict in verdicts), Verdict.NOT_RUN)


def strongest(findings: Sequence[Finding]) -> Finding:
    """Return the finding with the largest weight, of equal ones the latest; findings on stand-in data come last."""
    return max(
        findings,
        key=lambda finding: (
            finding.verdict is not Verdict.NOT_RUN,
            finding.weight,
            max((str(record.get("date", "")) for record in finding.records), default=""),
        ),
    )


def not_testable(reason: str) -> Check:
    """Return a check for a claim that no record could decide."""
    return lambda records: [Finding(Verdict.NOT_TESTABLE, reason)]
