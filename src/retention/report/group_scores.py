"""Score groups of test rows from the predictions of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from retention.errors import DataError


def group_scores(
    predictions: Sequence[Mapping[str, Any]], groups: Mapping[str, Iterable[int]]
) -> dict[str, dict[str, float]]:
    """Compute the mean row score of each group of rows; groups without rows are left out.

    Args:
        predictions: rows of ``predictions.jsonl``, each with ``index`` and ``score`` (for classes: 1 = right, 0 =
            wrong).
        groups: name -> row numbers of the test split; a row may be in several groups.

    Returns:
        Group -> its number of ``rows`` and their mean ``score``.

    Raises:
        DataError: a group names a row without a prediction, or rows have no score.
    """
    if not groups:
        return {}
    try:
        scores = {int(row["index"]): float(row["score"]) for row in predictions}
        members = {name: [scores[row] for row in rows] for name, rows in groups.items()}
    except KeyError as error:
        raise DataError(
            f"predictions of {len(predictions)} rows: {error} is missing; score groups on the rows of the same test "
            "split, of a task whose rows have a score"
        ) from error
    return {name: {"rows": len(values), "score": fmean(values)} for name, values in members.items() if values}
