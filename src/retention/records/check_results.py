"""Define the records of checks: of the paper's theory, and of reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from retention.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Check of a proposition, lemma or theorem of the paper on small exact instances.

    Attributes:
        claim: name of the claim, for example ``lemma1``.
        source: appendix of the paper.
        instance: instance of the measurement that decides.
        quantity: quantity of the measurement that decides.
        value: its value.
        mc_error: standard error of ``value``, None if it is exact.
        verdict: ``holds``, ``fails`` or ``holds in another form``.
        measurements: all measurements, each with ``instance``, ``quantity``, ``value``, ``mc_error`` and ``at``, its
            coordinates (name -> number).
    """

    kind: ClassVar[str] = "theory"
    claim: str
    source: str
    instance: str
    quantity: str
    value: float
    mc_error: float | None
    verdict: str
    measurements: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Outcome of a reliability check: many attempts, each with the right result, a clear error, or a fault.

    Attributes:
        check: name of the check, for example ``fuzzed_configurations``.
        tried: number of attempts.
        clear: attempts that ended with the right result or with a clear error.
        wrong: attempts that ended with a wrong answer, without an error where one was due, or that ran foreign code.
        details: counts and measurements of the check (name -> number, text, list or mapping), such as
            ``tracebacks`` (errors of an inner library), ``hangs`` and ``faults`` (descriptions).

    Raises:
        DataError: a count is negative, or ``clear`` and ``wrong`` add up to more than ``tried``.
    """

    kind: ClassVar[str] = "reliability"
    check: str
    tried: int
    clear: int
    wrong: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.tried, self.clear, self.wrong) < 0 or self.clear + self.wrong > self.tried:
            counts = f"tried={self.tried}, clear={self.clear}, wrong={self.wrong}"
            raise DataError(f"reliability record {self.check}: clear + wrong must be in [0, tried], got {counts}")
