"""Look up figures in the committed records.

A query is a mapping:

    records: results/quality/sst2_small.jsonl
    where: {policy: adaptive, rho: 0.3}
    value: sd metrics.accuracy
    scale: 100

``records`` is a file or a list of files. ``where`` must leave exactly one record per seed, or per combination of the
fields in ``by``; a list of values allows each of them. Fields are dotted paths, in which a number selects an entry of a
list. The result is the mean of the ``value`` over the records, or the summary before the value: ``sd`` (sample
standard deviation), ``min``, ``max``, ``median`` or ``count`` (of the records), times ``scale``. ``summary`` is another
place for the summary. Of paired records, ``pooled mean``, ``pooled low`` and ``pooled high`` are the difference of the
seeds of all of them together and the ends of its interval, see ``reproduction.pooling``.

``minus`` and ``over`` name a second set of records, with its own ``records``, ``where`` or ``value``; the value of each
record is then its difference from, or ratio to, the record of the same seed (``by``) in the second set. What such a
nested query does not name is that of the outer one, and its ``where`` is added to that of the outer one.
``relative_to`` is a nested query, too; its result divides that of the outer one (a ratio of means, where ``over`` gives
a mean of ratios).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from reproduction.pooling import pooled, seed_differences
from retention.errors import DataError
from retention.records import Record, read_records

Query = Mapping[str, Any]
_POOLED = "pooled"
_SUMMARIES: Mapping[str, Callable[[list[float]], float]] = {
    "": fmean,
    "sd": stdev,
    "min": min,
    "max": max,
    "median": median,
    "count": len,
}


def nested(outer: Query, inner: Query) -> dict[str, Any]:
    """Return a query inside of another one: what it does not name is that of the outer one."""
    return {**outer, **inner, "where": {**outer.get("where", {}), **inner.get("where", {})}}


class RecordQueries:
    """Answers queries with the records below a folder; reads each file once."""

    def __init__(self, root: Path) -> None:
        """Take the folder that the paths in ``records`` start from."""
        self._root = root
        self._files: dict[str, list[Record]] = {}

    def measure(self, query: Query) -> float:
        """Return the result of a query.

        Raises:
            DataError: the query leaves no record, or several per seed, or a record lacks the value.
        """
        if summary(query) == _POOLED:
            return float(query.get("scale", 1)) * self._pooled(query)
        result = _summarize(query, self.values(query))
        if "relative_to" in query:
            reference = nested(query, query["relative_to"])
            result /= _summarize(reference, self.values(reference))
        return float(query.get("scale", 1)) * result

    def values(self, query: Query) -> dict[tuple[str, ...], float]:
        """Return the seed, or the fields in ``by``, of each record of a query -> its value, before summary and scale.

        Raises:
            DataError: see ``measure``.
        """
        values = self._select(query)
        for operation in ("minus", "over"):
            if operation in query:
                second = self._select(nested(query, query[operation]))
                if missing := values.keys() - second.keys():
                    raise DataError(f"{_describe(query)}: {operation}: has no record of {sorted(missing)}")
                for key, value in values.items():
                    values[key] = value - second[key] if operation == "minus" else value / second[key]
        return values

    def _pooled(self, query: Query) -> float:
        end, records = query["value"].rpartition(" ")[2], self._matching(query)
        if not records:
            raise DataError(f"{_describe(query)} leaves no record to pool")
        return float(getattr(pooled(map(seed_differences, records)), end)) / 100

    def _matching(self, query: Query) -> list[Record]:
        files = [query["records"]] if isinstance(query["records"], str) else query["records"]
        where = query.get("where", {}).items()
        return [
            record
            for file in files
            for record in self._read(file)
            if all(_matches(_lookup(record, key), value) for key, value in where)
        ]

    def _select(self, query: Query) -> dict[tuple[str, ...], float]:
        by, path = query.get("by", ["seed"]), query["value"].rpartition(" ")[2]
        records = self._matching(query)
        values = {tuple(str(_lookup(record, key)) for key in by): _lookup(record, path) for record in records}
        if not records or len(values) < len(records) or None in values.values():
            raise DataError(
                f"{_describe(query)} leaves {len(records)} records of {by} {[*values]}; need one per "
                f"{', '.join(by)}, with a value of {path}"
            )
        return {key: float(value) for key, value in values.items()}

    def _read(self, file: str) -> list[Record]:
        if file not in self._files:
            self._files[file] = read_records([self._root / file])
        return self._files[file]


def summary(query: Query) -> str:
    """Return the name of the summary of a query, empty for the mean."""
    return str(query.get("summary") or query["value"].rpartition(" ")[0])


def _summarize(query: Query, values: Mapping[tuple[str, ...], float]) -> float:
    return _SUMMARIES[summary(query)](list(values.values()))


def _describe(query: Query) -> str:
    return f"{query['records']}: {dict(query.get('where', {}))}"


def _matches(value: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return any(_matches(value, each) for each in expected)
    if isinstance(value, float) and isinstance(expected, float):
        return abs(value - expected) < 5e-5
    return bool(value == expected)


def _lookup(record: Record, path: str) -> Any:
    """Return a value by its dotted path; a number selects an entry of a list."""
    value: Any = record
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal():
            value = value[int(key)]
        else:
            return None
    return value
