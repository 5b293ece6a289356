r"""Check the figures in the prose of README.md and docs/results.md against the records.

reproduction/prose_figures.yaml maps each figure to a query. A figure is a number with a decimal point or a per cent
sign, outside of code, tables and comments. An entry names the words around its figures, with each figure in braces:

    - page: docs/results.md
      text: "by {1.4} points [{0.1}, {2.6}], and faster"
      records: results/paired/newsgroups20_small.jsonl
      where: {first.rho: 0.3, second.score: 0.697}
      values: [difference.mean, difference.bootstrap_low, difference.bootstrap_high]
      scale: 100

``where`` must leave exactly one record per seed; a value is the mean over them (with ``sd`` before it the sample
standard deviation), times ``scale``, rounded as the figure is. ``settings`` lists words whose numbers are no
results (keep ratios, versions), and ``unchecked`` counts, per page, the figures that no entry covers yet: a new figure
needs an entry, or the test fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from retention.errors import DataError
from retention.records import read_records
from retention.report.grouping import Record

LEDGER = Path(__file__).with_name("prose_figures.yaml")
FIGURE = re.compile(r"(?<![\w.\-/§])[-+]?\d[\d,]*(?:\.\d+(?!\.?\w)|(?= ?%))")
_SKIPPED = (r"<!-- generated: .*?<!-- end -->", r"<!--.*?-->", r"```.*?```", r"^\|.*?$", r"`[^`\n]*`", r"\]\([^)]*\)")
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
    records = _select(root, entry)
    if len(shown) != len(entry["values"]):
        raise DataError(f"{entry['page']}: {plain!r} has {len(shown)} figures and {len(entry['values'])} values")
    for figure, query in zip(shown, entry["values"], strict=True):
        path, summarize = (query[3:], stdev) if query.startswith("sd ") else (query, fmean)
        value = float(entry.get("scale", 1)) * summarize([float(_lookup(record, path)) for record in records])
        recorded = f"{value:.{len(figure.partition('.')[2])}f}"
        if float(recorded) != float(figure.replace(",", "")):
            yield Mismatch(entry["page"], plain, figure, recorded)


def _select(root: Path, entry: Mapping[str, Any]) -> list[Record]:
    where = entry.get("where", {})
    records: list[Record] = [
        record
        for record in read_records([root / entry["records"]])
        if all(_matches(_lookup(record, key), value) for key, value in where.items())
    ]
    seeds = [str(record["seed"]) for record in records]
    if not records or len(set(seeds)) < len(seeds):
        raise DataError(
            f"{entry['records']}: {where} leaves {len(records)} records of seeds {seeds}; need one per seed"
        )
    return records


def _matches(value: Any, expected: Any) -> bool:
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
