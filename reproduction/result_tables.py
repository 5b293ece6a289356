"""Build the tables of measured figures that reproduction/result_tables.yaml describes.

The tables are generated, not written by hand and checked cell by cell: most cells of a table share one query but for
the policy of their row and the keep ratio of their column, so that a table needs a line per row instead of an entry
per cell, and new records change a page by one command (``python -m reproduction readme``).

A table is a query (see ``reproduction.record_queries``) with columns, rows and figures:

    ablations:
      records: results/quality/sst2_small.jsonl
      where: {rho: 0.3, seed: 0}
      columns:
        - change
        - {title: accuracy, cell: "{accuracy}{deviation}"}
      rows:
        - {cells: [no variational relaxation], where: {policy: adaptive_no_relaxation}}

Columns and rows are queries too. The query of a cell is that of its table, and inside of it that of its column, of its
row and of the figure. ``cells`` of a row holds texts; the texts of the columns (``cell``) fill in for missing ones and
for ``~``. ``labels`` is the number of columns that are aligned to the left, 1 if not given.

A name in braces stands for a figure, which is a query that ``show`` formats. ``figures`` defines them, for all tables,
for a table, a column or a row; definitions of the same name add to each other. Two kinds show nothing where there is
nothing to say: an ``sd`` over one record, and a figure with ``above``, a query inside of its own, unless the figure is
above the result of that query when both are formatted. The summary ``each`` shows the value of each record.

``bold`` of a table names figures, the ends of an interval: cells that show them are bold if all are above or below 0.

``settings`` lists words whose numbers are no results; all other figures in the texts of a table must be in braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from reproduction.prose_figures import FIGURE
from reproduction.record_queries import Query, RecordQueries, nested, summary
from retention.errors import DataError
from retention.report.tables import markdown_table, text_frame

TABLES = Path(__file__).with_name("result_tables.yaml")
_NAME = re.compile(r"\{(\w+)\}")
_CODE = re.compile(r"`[^`]*`")
Figures = Mapping[str, Query]


@lru_cache
def read_tables(path: Path = TABLES) -> Mapping[str, Any]:
    """Read the description of the tables: ``figures``, ``settings`` and ``tables``.

    Raises:
        DataError: a part is missing.
    """
    description: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(description, dict) or {"figures", "settings", "tables"} - description.keys():
        raise DataError(f"{path}: needs the keys figures, settings and tables")
    return description


def result_table(root: Path, name: str, description: Mapping[str, Any]) -> str:
    """Return a table as Markdown, with figures from the records below ``root``.

    Raises:
        DataError: a text names an unknown figure, or a query has no answer.
    """
    table: Query = description["tables"][name]
    columns = _columns(table)
    queries = RecordQueries(root)
    rows = []
    for row in table["rows"]:
        texts = []
        for column, text in zip(columns, _texts(columns, row), strict=True):
            figures = _merge(each.get("figures", {}) for each in (description, table, column, row))
            cell = _Cell(queries, figures, nested(nested(table, column), row))
            try:
                texts.append(cell.fill(text, table.get("bold", ())))
            except DataError as error:
                raise DataError(f"{name}: {row['cells'][0]!r}, {column['title']!r}: {error}") from error
        rows.append(texts)
    frame = text_frame([column["title"] for column in columns], rows)
    return markdown_table(frame, labels=table.get("labels", 1))


def literal_figures(description: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return table -> figures in its texts that are neither looked up nor covered by the settings."""
    figures: dict[str, list[str]] = {}
    for name, table in description["tables"].items():
        columns = _columns(table)
        for text in (text for row in table["rows"] for text in _texts(columns, row)):
            for words in (_NAME, _CODE, *description["settings"]):
                text = re.sub(words, " ", text)
            if found := FIGURE.findall(text):
                figures.setdefault(name, []).extend(found)
    return figures


class _Cell(dict[str, str]):
    """Figures of a cell by name, looked up when the text of the cell names them."""

    def __init__(self, queries: RecordQueries, figures: Figures, query: Query) -> None:
        super().__init__()
        self._queries, self._figures, self._query = queries, figures, query
        self._results: dict[str, float] = {}

    def fill(self, text: str, interval: Iterable[str]) -> str:
        """Return the text with its figures; bold if it shows an interval that excludes 0."""
        filled = text.format_map(self)
        ends = [self._results[name] for name in interval if name in self._results]
        return f"**{filled}**" if ends and (min(ends) > 0 or max(ends) < 0) else filled

    def __missing__(self, name: str) -> str:
        if name not in self._figures:
            raise DataError(f"there is no figure {name!r}; choose from {', '.join(self._figures)}")
        query = nested(self._query, self._figures[name])
        show: str = query["show"]
        if summary(query) == "each":
            scale = query.get("scale", 1)
            return ", ".join(show.format(scale * value) for _, value in sorted(self._queries.values(query).items()))
        if summary(query) == "sd" and len(self._queries.values(query)) == 1:
            return ""
        result = self._results[name] = self._queries.measure(query)
        if "above" in query:
            limit = self._queries.measure(nested(query, query["above"]))
            if result <= limit or show.format(result) == show.format(limit):
                return ""
        return show.format(result)


def _columns(table: Query) -> list[dict[str, Any]]:
    """Return the columns of a table; a column of plain text has a title only."""
    return [{"title": column} if isinstance(column, str) else column for column in table["columns"]]


def _texts(columns: list[dict[str, Any]], row: Query) -> list[str]:
    """Return the texts of a row, one per column."""
    cells = [*row["cells"], *[None] * (len(columns) - len(row["cells"]))]
    texts = [column.get("cell") if cell is None else cell for column, cell in zip(columns, cells, strict=False)]
    if len(cells) > len(columns) or None in texts:
        titles = ", ".join(column["title"] for column in columns)
        raise DataError(f"row {row['cells']}: needs a text for each column that has no cell, out of {titles}")
    return [str(text) for text in texts]


def _merge(levels: Iterable[Figures]) -> dict[str, Query]:
    """Return the figures of several levels; later definitions of a name add to earlier ones."""
    merged: dict[str, Query] = {}
    for level in levels:
        for name, figure in level.items():
            merged[name] = nested(merged.get(name, {}), figure)
    return merged
