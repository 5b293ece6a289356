"""Build the table of all metrics that runs measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

_COUNT = "count_"  # metrics that are numbers of questions
_SCORE = "f1_"  # score of the questions that are counted under the same name
_NO_RATIOS = ("nll", "brier", "divergence", "root_mean_square_error")


def detail_table(records: Iterable[Record]) -> str:
    """Build a Markdown table with one row per metric and one column per record.

    Ratios are in points, losses and thresholds as they are. A score ``f1_<kind>`` shows the number of its questions,
    ``count_<kind>``, in parentheses; other counts have rows of their own.

    Args:
        records: result records of one task; other kinds than ``quality`` are left out.

    Returns:
        The table, or an empty string if no record has more metrics than its headline.
    """
    quality = [record for record in records if record.get("kind") == "quality"]
    names = list(dict.fromkeys(name for record in quality for name in record["metrics"]))
    if len(names) < 2:
        return ""
    header = ["metric", *(f"{record['policy']} {float(record['rho']):g}" for record in quality)]
    shown_with_score = {_COUNT + name.removeprefix(_SCORE) for name in names if name.startswith(_SCORE)}
    body = [_row(name, quality) for name in names if name not in shown_with_score]
    return markdown_table(text_frame(header, body)) + "\n"


def _row(name: str, records: Sequence[Record]) -> list[str]:
    label, scale, digits = name, 100.0, 1
    if name.startswith(_COUNT):
        scale, digits = 1.0, 0
    elif name.endswith(("_loss", "_threshold")) or name.startswith(_NO_RATIOS):
        scale, digits = 1.0, 3
    elif name.startswith(_SCORE):
        counts = [record["metrics"].get(_COUNT + name.removeprefix(_SCORE)) for record in records]
        label += next((f" ({count:.0f})" for count in counts if count is not None), "")
    values = [record["metrics"].get(name) for record in records]
    return [label, *("-" if value is None else f"{scale * value:.{digits}f}" for value in values)]
