"""Correct the comparisons at equal time for their number: all tasks and speeds are one family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

from reproduction.comparison import interval, signed
from reproduction.pooling import standard_error
from reproduction.sources import RecordSet
from reproduction.target_speeds import SPEEDS, models_at_speed
from reproduction.timed_models import paired_difference, timed_models
from retention.report.intervals import Estimate
from retention.report.tables import markdown_table, text_frame

_HEADER = ("task", "speedup of at least", "ours minus fewer layers", "p", "p, corrected")


def comparison_family_table(
    records: RecordSet, tasks: Mapping[str, tuple[str, str]], speeds: Sequence[float] = SPEEDS
) -> str:
    """Return one row per task and speed that both sides reach, with Holm's correction over all rows.

    Args:
        records: committed records.
        tasks: name of each task -> what its rows are, and its metric.
        speeds: required speedups over the dense model.

    Raises:
        DataError: there is no latency record of a task.
    """
    family: list[tuple[str, str, Estimate]] = []
    for task, (rows, _) in tasks.items():
        models = timed_models(records, task)
        for speed in speeds:
            ours, shallow = models_at_speed(models, speed)
            difference = paired_difference(records, task, ours, shallow) if ours and shallow else None
            if difference is not None and difference.low is not None:
                family.append((rows, f"{speed:g}x", difference))
    values = [p_value(difference) for *_, difference in family]
    rows_of_table = [
        [rows, speed, f"{signed(difference.mean)} {interval(difference)}", _text(value), _text(corrected)]
        for (rows, speed, difference), value, corrected in zip(family, values, holm(values), strict=True)
    ]
    return markdown_table(text_frame(_HEADER, rows_of_table))


def p_value(difference: Estimate) -> float:
    """Return the two-sided p-value of no difference, from the width of a 95 % interval and a normal distribution.

    Args:
        difference: with an interval.
    """
    error = standard_error(difference)
    if error == 0:
        return 1.0 if difference.mean == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(difference.mean) / error)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number so that any false rejection is as likely as stated.

    Source: the step-down method of Holm (Scandinavian Journal of Statistics, 1979). It needs no independence.
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def _text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
