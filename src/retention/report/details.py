"""Everything a test run measured, where that is more than the headline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reproduction.tables import aligned

_COUNT = "count_"  # metrics that count questions instead of sharing them out
_SCORE = "f1_"  # the score of what is counted under the same name

Record = Mapping[str, Any]


def detail_table(records: Iterable[Record]) -> str:
    """A Markdown table: one row per metric, in the order of the record, one column per record.

    Shares are in points, losses as they are. A score ``f1_<kind>`` has the number of questions behind it,
    ``count_<kind>``, in its name; other counts have rows of their own.

    Args:
        records: result records of one task; other kinds than ``quality`` are left out.

    Returns:
        The table, or nothing where no record has more metrics than its headline.
    """
    quality = [record for record in records if record.get("kind") == "quality"]
    names = list(dict.fromkeys(name for record in quality for name in record["metrics"]))
    if len(names) < 2:
        return ""
    header = ["metric", *(f"{record['policy']} {float(record['rho']):g}" for record in quality)]
    scored = {_COUNT + name.removeprefix(_SCORE) for name in names if name.startswith(_SCORE)}
    body = [_row(name, quality) for name in names if name not in scored]
    return "\n".join(aligned([header, *body])) + "\n"


def _row(name: str, records: Sequence[Record]) -> list[str]:
    values = [record["metrics"].get(name) for record in records]
    if name.startswith(_COUNT):
        return [name, *("-" if value is None else f"{value:.0f}" for value in values)]
    if name.endswith("_loss"):
        return [name, *("-" if value is None else f"{value:.3f}" for value in values)]
    count = next(
        (found for r in records if (found := r["metrics"].get(_COUNT + name.removeprefix(_SCORE))) is not None), None
    )
    label = f"{name} ({count:.0f})" if name.startswith(_SCORE) and count is not None else name
    return [label, *("-" if value is None else f"{100.0 * value:.1f}" for value in values)]
