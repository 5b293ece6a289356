"""Collect the sweeps of beta, gamma and zeta: runs that differ in one hyper-parameter alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reproduction.paper import ADAPTIVE, HYPERPARAMETERS
from retention.records import Quality, Validation
from retention.records.identity import settings, word
from retention.report.grouping import EvaluationSetup, Record, RunGroup, as_test_rows, group_runs


@dataclass(frozen=True)
class Sweep:
    """Runs of our method that may share a plot: all but the three hyper-parameters and the seed is equal.

    Attributes:
        setup: task, data and encoder.
        rho: target keep ratio.
        fixed: all other settings, ``key=value`` each.
        curves: hyper-parameter -> value -> runs, one per seed; the other two have their defaults. A hyper-parameter
            with fewer than two values has no curve.
    """

    setup: EvaluationSetup
    rho: float
    fixed: frozenset[str]
    curves: Mapping[str, Mapping[float, RunGroup]]


def find_sweeps(records: Iterable[Record]) -> list[Sweep]:
    """Return every sweep with at least one curve, of test or of validation rows, by setup and keep ratio."""
    by_values: dict[tuple[float, ...], list[Record]] = {}
    for record in records:
        if record["kind"] == Validation.kind:
            record = as_test_rows(record)
        if record["kind"] == Quality.kind and record["policy"] == ADAPTIVE.policy:
            values = _values(record)
            if values is not None:
                by_values.setdefault(values, []).append(record)
    sweeps: dict[tuple[EvaluationSetup, float, frozenset[str]], dict[tuple[float, ...], RunGroup]] = {}
    for values, members in sorted(by_values.items()):
        for group in group_runs(members).all:
            sweeps.setdefault((group.setup, group.rho, _fixed(group)), {})[values] = group
    complete = [Sweep(setup, rho, fixed, _curves(groups)) for (setup, rho, fixed), groups in sweeps.items()]
    complete.sort(key=lambda sweep: (sweep.setup.describe(), -sweep.rho, sorted(sweep.fixed)))
    return [sweep for sweep in complete if sweep.curves]


def _values(record: Record) -> tuple[float, ...] | None:
    """Return beta, gamma and zeta of a run, None if its record does not hold them."""
    policy = (record.get("config") or {}).get("retention") or {}
    if not all(isinstance(policy.get(name), int | float) for name in HYPERPARAMETERS):
        return None
    return tuple(float(policy[name]) for name in HYPERPARAMETERS)


def _fixed(group: RunGroup) -> frozenset[str]:
    swept = {f"retention.{name}" for name in HYPERPARAMETERS}
    flat = settings(group.records[0].get("config") or {})
    return frozenset(f"{key}={word(value)}" for key, value in flat.items() if key not in swept)


def _curves(groups: Mapping[tuple[float, ...], RunGroup]) -> dict[str, dict[float, RunGroup]]:
    defaults = tuple(HYPERPARAMETERS.values())
    curves: dict[str, dict[float, RunGroup]] = {}
    for index, name in enumerate(HYPERPARAMETERS):
        others = defaults[:index] + defaults[index + 1 :]
        points = {
            values[index]: group for values, group in groups.items() if values[:index] + values[index + 1 :] == others
        }
        if len(points) > 1:
            curves[name] = dict(sorted(points.items()))
    return curves
