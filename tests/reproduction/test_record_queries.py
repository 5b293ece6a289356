"""Queries of committed records; test_prose_figures.py covers summaries and second sets through the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reproduction.record_queries import RecordQueries, nested

from retention.records import append_record


@pytest.fixture
def queries(tmp_path: Path) -> RecordQueries:
    """Write two seeds of two policies to a folder."""
    for policy, accuracies in {"dense": (0.8, 0.4), "random": (0.4, 0.4)}.items():
        for seed, accuracy in enumerate(accuracies):
            record = {"kind": "quality", "policy": policy, "seed": seed, "metrics": {"accuracy": accuracy}}
            append_record(tmp_path / "runs.jsonl", record)
    return RecordQueries(tmp_path)


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({}, 40.0),
        ({"summary": "max", "where": {"policy": "dense"}}, 80.0),
        ({"value": "count metrics.accuracy", "scale": 1}, 2),
        ({"over": {"where": {"policy": "dense"}}}, 75.0),  # mean of 0.5 and 1
        ({"relative_to": {"where": {"policy": "dense"}}}, 100 * 0.4 / 0.6),
    ],
    ids=["mean", "summary", "count", "mean of ratios", "ratio of means"],
)
def test_results_of_queries(queries: RecordQueries, changes: dict[str, Any], result: float) -> None:
    query = {"records": "runs.jsonl", "where": {"policy": "random"}, "value": "metrics.accuracy", "scale": 100}
    assert queries.measure({**query, **changes}) == pytest.approx(result)


def test_nested_queries_add_to_the_conditions_of_the_outer_one() -> None:
    outer = {"records": "a", "where": {"policy": "random", "seed": 0}}
    inner = {"where": {"policy": "dense"}, "value": "rho"}
    assert nested(outer, inner) == {"records": "a", "where": {"policy": "dense", "seed": 0}, "value": "rho"}
