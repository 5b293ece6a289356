"""Sweeps of beta, gamma and zeta: which runs differ in one knob alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reproduction.paper import ADAPTIVE, KNOBS
from reproduction.runs import Cells, Column, Record, rows_of, sort_runs
from retention.records.identity import settings, word


@dataclass(frozen=True)
class Study:
    """Runs of the method that may share a panel: everything but the three knobs and the seed is equal.

    Attributes:
        column: rows and encoder.
        rho: asked share.
        fixed: all other settings, ``key=value`` each.
        curves: knob -> its value -> runs, one per seed; the other two knobs have their defaults. A knob with fewer
            than two values has no curve.
    """

    column: Column
    rho: float
    fixed: frozenset[str]
    curves: Mapping[str, Mapping[float, list[Record]]]


def studies(records: Iterable[Record]) -> list[Study]:
    """Every group of runs with at least one curve, by task, encoder and share."""
    own = [record for record in records if record["kind"] == "quality" and record["policy"] == ADAPTIVE.policy]
    groups: dict[tuple[Column, float, frozenset[str]], dict[tuple[float, ...], list[Record]]] = {}
    for values in sorted({_values(record) for record in own} - {None}, key=str):
        if values is None:
            continue
        cells = sort_runs(record for record in own if _values(record) == values)
        for column, rho, members in _split(cells):
            fixed = _fixed(members[0])
            groups.setdefault((column, rho, fixed), {}).setdefault(values, []).extend(members)
    found = [Study(column, rho, fixed, _curves(runs)) for (column, rho, fixed), runs in groups.items()]
    ordered = sorted(found, key=lambda study: (study.column.note(), -study.rho, sorted(study.fixed)))
    return [study for study in ordered if study.curves]


def _split(cells: Cells) -> Iterable[tuple[Column, float, list[Record]]]:
    for column in dict.fromkeys(column for _, column in cells):
        for row in rows_of(cells, column):
            yield column, row.rho, cells[row, column]


def _values(record: Record) -> tuple[float, ...] | None:
    """beta, gamma and zeta of a run; None where its record does not say."""
    policy = (record.get("config") or {}).get("retention") or {}
    if not all(isinstance(policy.get(name), int | float) for name in KNOBS):
        return None
    return tuple(float(policy[name]) for name in KNOBS)


def _fixed(record: Record) -> frozenset[str]:
    flat = settings(record.get("config") or {})
    return frozenset(f"{key}={word(value)}" for key, value in flat.items() if key not in _KEYS)


def _curves(runs: Mapping[tuple[float, ...], list[Record]]) -> dict[str, dict[float, list[Record]]]:
    defaults = tuple(KNOBS.values())
    curves: dict[str, dict[float, list[Record]]] = {}
    for place, name in enumerate(KNOBS):
        points = {
            values[place]: members
            for values, members in runs.items()
            if values[:place] + values[place + 1 :] == defaults[:place] + defaults[place + 1 :]
        }
        if len(points) > 1:
            curves[name] = dict(sorted(points.items()))
    return curves


_KEYS = frozenset(f"retention.{name}" for name in KNOBS)
