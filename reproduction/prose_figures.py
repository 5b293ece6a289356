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

An entry is a query (see ``reproduction.record_queries``) with one ``value`` per figure, in ``values``; its result is
rounded as the figure is. A value with a query of its own is a mapping, ``{value: metrics.accuracy, where: {rho:
0.5}}``; what it does not name is that of the entry.

``settings`` lists words whose numbers are no results (keep ratios, versions), and ``unchecked`` counts, per page, the
figures that no entry covers: a new figure needs an entry, or the test fails. It names every page but those that a
command writes from the records (claims, reliability, theory), which have tests of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reproduction.record_queries import RecordQueries, nested
from retention.errors import DataError

LEDGER = Path(__file__).with_name("prose_figures.yaml")
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_UNIT = r"(?: ?(?:%|points?\b|nats\b|times\b)|x\b)"
_SERIES = rf"(?:(?:-| to | and | or |, )[-+]?{_NUMBER})*"  # the unit stands after the last number: "2 to 3 points"
FIGURE = re.compile(
    rf"(?:(?<![\w.\-/§])[-+]?|(?<=\d-))(?:\d+(?:,\d{{3}})*\.\d+(?!\.?\w)|{_NUMBER}(?={_SERIES}{_UNIT}))"
)
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
    queries = RecordQueries(root)
    return [each for entry in ledger["figures"] for each in _check(queries, entry, texts[entry["page"]])]


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


def _check(queries: RecordQueries, entry: Mapping[str, Any], text: str) -> Iterator[Mismatch]:
    plain, shown = _BRACED.sub(r"\1", entry["text"]), _BRACED.findall(entry["text"])
    if text.count(plain) != 1:
        raise DataError(f"{entry['page']}: {plain!r} occurs {text.count(plain)} times in its prose; correct the entry")
    if len(shown) != len(entry["values"]):
        raise DataError(f"{entry['page']}: {plain!r} has {len(shown)} figures and {len(entry['values'])} values")
    for figure, query in zip(shown, entry["values"], strict=True):
        try:
            value = queries.measure(nested(entry, query if isinstance(query, Mapping) else {"value": query}))
        except DataError as error:
            raise DataError(f"{entry['page']}: {plain!r}: {error}") from error
        recorded = f"{value:.{len(figure.partition('.')[2])}f}"
        if float(recorded) != float(figure.replace(",", "")):
            yield Mismatch(entry["page"], plain, figure, recorded)
