"""Define theory claims, the measurements that decide them, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from retention.errors import DataError


class TheoryVerdict(Enum):
    """Outcome of a claim on its instances."""

    HOLDS = "holds"
    FAILS = "fails"
    ANOTHER_FORM = "holds in another form"


@dataclass(frozen=True)
class Measurement:
    """Value of a quantity on an instance.

    Attributes:
        instance: name of the instance.
        quantity: name of the quantity.
        value: the number.
        mc_error: standard error of a Monte Carlo estimate, in the unit of ``value``; None = computed exactly.
        at: coordinates of the value on a curve, for example ``{"beta": 0.66}``.
    """

    instance: str
    quantity: str
    value: float
    mc_error: float | None = None
    at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """Values of a quantity along one coordinate, sorted by it; ``errors`` are 0 where a value is exact."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """Measurements on a claim, and the verdict that they give.

    Attributes:
        verdict: outcome.
        decisive: the measurement that decides.
        measurements: all measurements, with the decisive one among them.
    """

    verdict: TheoryVerdict
    decisive: Measurement
    measurements: tuple[Measurement, ...]

    def find(self, instance: str, quantity: str, **at: float) -> Measurement:
        """Return the one measurement with this instance, quantity and coordinates.

        Raises:
            DataError: there is none, or more than one.
        """
        matches = [
            each
            for each in self.measurements
            if (each.instance, each.quantity) == (instance, quantity) and dict(each.at) == at
        ]
        if len(matches) != 1:
            raise DataError(f"theory: {len(matches)} measurements of {quantity!r} on {instance!r} at {at}, expected 1")
        return matches[0]

    def curve(self, instance: str, quantity: str, along: str) -> Curve:
        """Return the values of a quantity along the coordinate ``along``; other coordinates may not be given."""
        points = sorted(
            (each.at[along], each.value, each.mc_error or 0.0)
            for each in self.measurements
            if (each.instance, each.quantity) == (instance, quantity) and set(each.at) == {along}
        )
        x, y, errors = zip(*points, strict=True) if points else ((), (), ())
        return Curve(x, y, errors)

    def instances(self, quantity: str) -> tuple[str, ...]:
        """Return the names of the instances on which a quantity was measured, in the order of measurement."""
        return tuple(dict.fromkeys(each.instance for each in self.measurements if each.quantity == quantity))


@dataclass(frozen=True)
class TheoryClaim:
    """A proposition, lemma or theorem of the paper, with the experiment that checks it.

    Attributes:
        name: key in records, for example ``lemma1``.
        title: heading.
        source: appendix of the paper.
        statement: the claim in the paper's form.
        method: description of the instances and of what is computed.
        run: compute the evidence; deterministic but for timings.
        describe: state the results of the evidence in Markdown.
        valid_form: form of the claim that holds, for claims that do not hold as stated.
    """

    name: str
    title: str
    source: str
    statement: str
    method: str
    run: Callable[[], Evidence]
    describe: Callable[[Evidence], str]
    valid_form: str = ""


def evidence_fields(evidence: Evidence) -> dict[str, Any]:
    """Return the fields of a theory record: the decisive measurement, the verdict, and all measurements."""
    decisive = evidence.decisive
    return {
        "instance": decisive.instance,
        "quantity": decisive.quantity,
        "value": decisive.value,
        "mc_error": decisive.mc_error,
        "verdict": evidence.verdict.value,
        "measurements": [asdict(each) for each in evidence.measurements],
    }


def read_evidence(record: Mapping[str, Any]) -> Evidence:
    """Build the evidence from a theory record.

    Raises:
        DataError: the record lacks a field, or its decisive measurement is not among its measurements.
    """
    try:
        measurements = tuple(Measurement(**each) for each in record["measurements"])
        key = (record["instance"], record["quantity"], record["value"])
        decisive = next(each for each in measurements if (each.instance, each.quantity, each.value) == key)
        return Evidence(TheoryVerdict(record["verdict"]), decisive, measurements)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise DataError(
            f"theory record of {record.get('claim')!r}: not complete ({error!r}); run the lab again"
        ) from error
