"""Table of the paper's keep ratios by layer beside the linear schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reproduction.paper import PAPER_KEEP_RATIOS
from reproduction.schedule_report import schedule_report

from retention.report.grouping import group_runs

Make = Callable[..., dict[str, Any]]
LIST = [ratio / 100 for ratio in PAPER_KEEP_RATIOS["sst2"][0.3][:-1]]


def series(make: Make, schedule: object, values: tuple[float, ...], **changes: Any) -> list[dict[str, Any]]:
    settings = {"schedule": schedule}
    return [
        make("adaptive", 0.4254, value, seed, hyperparameters=settings, **changes) for seed, value in enumerate(values)
    ]


def test_list_is_compared_with_the_linear_schedule_of_the_same_keep_ratio(quality: Make) -> None:
    records = [*series(quality, LIST, (0.88, 0.89, 0.90)), *series(quality, "linear", (0.90, 0.91, 0.92))]
    [table] = schedule_report(group_runs(records)).tables
    listed, linear = table.rows
    assert listed[0] == "paper, sst2 at 30 %" and listed[6].startswith("-2.0")
    assert linear[0] == "linear" and linear[5].startswith("91.0")


def test_other_lists_and_other_training_are_left_out(quality: Make) -> None:
    assert (
        schedule_report(group_runs(series(quality, [0.5, 0.4, 0.3, 0.2, 0.1], (0.9,)))).tables[0].caption == "not run"
    )
    other = {"config": {"seed": 0, "prune_at": "after_attention", "retention": {"schedule": "linear", "rho": 0.4254}}}
    records = [*series(quality, LIST, (0.88,)), *series(quality, "linear", (0.9,), **other)]
    [table] = schedule_report(group_runs(records)).tables
    assert len(table.rows) == 1 and table.rows[0][6] == "no like reference"
