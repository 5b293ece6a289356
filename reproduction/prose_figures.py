r"""Check the figures in the prose of README.md and docs/*.md against the records.

reproduction/prose_figures.yaml maps each figure to a query. A figure is a number with a decimal point, or one that
counts per cent, points, nats or times (``2x``), outside of code, tables and comments. An entry names the words around
its figures, with each figure in braces:

    - page: docs/results.md
      text: "by {1.4} points [{0.1}, {2.6}], and faster"
      records: results/paired/newsgroups20_small.jsonl
      where: {first.rho: 0.3, second.score: 0.697}
      values: [difference.mean, difference.bootstrap_low, difference.bootstrap_high]
      scale: 100

``records`` is a file or a list of files. ``where`` must leave exactly one record per seed, or per combination of the
fields in ``by``; a list of values allows each of them. A value is the mean over the records, or what stands before it:
``sd`` (sample standard deviation), ``min``, ``max`` or ``median``; times ``scale``, rounded as the figure is.

``minus`` and ``over`` name a second set of records, with its own ``records``, ``where`` or ``value``; the value of each
record is then its difference from, or ratio to, the record of the same seed (``by``) in the second set. A value with a
query of its own is a mapping, ``{value: metrics.accuracy, where: {rho: 0.5}}``. What such a nested query does not name
is that of the entry, and its ``where`` is added to that of the entry.

``settings`` lists words whose numbers are no results (keep ratios, versions), and ``unchecked`` counts, per page, the
figures that no entry covers: a new figure needs an entry, or the test fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml

from retention.errors import DataError
from retention.records import read_records
from retention.report.grouping import Record

LEDGER = Path(__file__).with_name("prose_figures.yaml")
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_UNIT = r"(?: ?(?:%|points?\b|nats\b|times\b)|x\b)"
_SERIES = rf"(?:(?:-| to | and | or |, )[-+]?{_NUMBER})*"  # the unit stands after the last number: "2 to 3 points"
FIGURE = re.compile(
    rf"(?:(?<![\w.\-/§])[-+]?|(?<=\d-))(?:\d+(?:,\d{{3}})*\.\d+(?!\.?\w)|{_NUMBER}(?={_SERIES}{_UNIT}))"
)
_SKIPPED = (r"<!-- generated: .*?<!-- end -->", r"<!--.*?-->", r"```.*?```", r"^\|.*?$", r"`[^`\n]*`", r"\]\([^)]*\)")
_SUMMARIES: Mapping[str, Callable[[list[float]], float]] = {
    "": fmean,
    "sd": stdev,
    "min": min,
    "max": max,
    "median": median,
}
_BRACED = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Mismatch:
    """A figure that differs from its record.

    Attributes:
        page: page with the figure.
        text: words around it.
        shown: figure on the page.
        recorded: figure that the records give, rounded alike.
    """

    page: str
    text: str
    shown: str
    recorded: str


def read_ledger(path: Path = LEDGER) -> dict[str, Any]:
    """Read the ledger: ``figures``, ``settings`` and ``unchecked``.

    Raises:
        DataError: a part is missing.
    """
    ledger: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(ledger, dict) or {"figures", "settings", "unchecked"} - ledger.keys():
        raise DataError(f"{path}: needs the keys figures, settings and unchecked")
    return ledger


def prose(page: str) -> str:
    """Return the prose of a Markdown page in one line: without code, tables, comments and addresses."""
    for pattern in _SKIPPED:
        page = re.sub(pattern, " ", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\s+", " ", page)


def mismatches(root: Path, ledger: Mapping[str, Any]) -> list[Mismatch]:
    """Return the figures of the ledger that differ from their records.

    Raises:
        DataError: the words of an entry are not on its page exactly once, or its query has no answer.
    """
    texts = {page: prose((root / page).read_text(encoding="utf-8")) for page in ledger["unchecked"]}
    return [each for entry in ledger["figures"] for each in _check(root, entry, texts[entry["page"]])]


def uncovered(root: Path, ledger: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return page -> figures that neither an entry nor the settings cover."""
    figures: dict[str, list[str]] = {}
    for page in ledger["unchecked"]:
        text = prose((root / page).read_text(encoding="utf-8"))
        for entry in ledger["figures"]:
            if entry["page"] == page:
                text = text.replace(_BRACED.sub(r"\1", entry["text"]), " ")
        for words in ledger["settings"]:
            text = re.sub(words, " ", text)
        figures[page] = FIGURE.findall(text)
    return figures


def _check(root: Path, entry: Mapping[str, Any], text: str) -> Iterator[Mismatch]:
    plain, shown = _BRACED.sub(r"\1", entry["text"]), _BRACED.findall(entry["text"])
    if text.count(plain) != 1:
        raise DataError(f"{entry['page']}: {plain!r} occurs {text.count(plain)} times in its prose; correct the entry")
    if len(shown) != len(entry["values"]):
        raise DataError(f"{entry['page']}: {plain!r} has {len(shown)} figures and {len(entry['values'])} values")
    for figure, query in zip(shown, entry["values"], strict=True):
        value = _measure(root, _nested(entry, query if isinstance(query, Mapping) else {"value": query}))
        recorded = f"{value:.{len(figure.partition('.')[2])}f}"
        if float(recorded) != float(figure.replace(",", "")):
            yield Mismatch(entry["page"], plain, figure, recorded)


def _nested(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query inside of another one: what it does not name is that of the outer one."""
    return {**outer, **inner, "where": {**outer.get("where", {}), **inner.get("where", {})}}


def _measure(root: Path, query: Mapping[str, Any]) -> float:
    """Return the value of a query, over all its records."""
    summary, _, path = query["value"].rpartition(" ")
    values = _select(root, {**query, "value": path})
    for operation in ("minus", "over"):
        if operation in query:
            second = _select(root, _nested({**query, "value": path}, query[operation]))
            if missing := values.keys() - second.keys():
                raise DataError(f"{query['page']}: {query['text']!r}: {operation}: has no record of {sorted(missing)}")
            for key, value in values.items():
                values[key] = value - second[key] if operation == "minus" else value / second[key]
    return float(query.get("scale", 1)) * _SUMMARIES[summary](list(values.values()))


def _select(root: Path, query: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    """Return the seed, or the fields in ``by``, of each record of a query -> its value."""
    files = [query["records"]] if isinstance(query["records"], str) else query["records"]
    where, by = query.get("where", {}), query.get("by", ["seed"])
    records: list[Record] = [
        record
        for record in read_records([root / file for file in files])
        if all(_matches(_lookup(record, key), value) for key, value in where.items())
    ]
    values = {tuple(str(_lookup(record, key)) for key in by): _lookup(record, query["value"]) for record in records}
    if not records or len(values) < len(records) or None in values.values():
        raise DataError(
            f"{query['records']}: {where} leaves {len(records)} records of {by} {[*values]}; need one per "
            f"{', '.join(by)}, with a value of {query['value']}"
        )
    return {key: float(value) for key, value in values.items()}


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
