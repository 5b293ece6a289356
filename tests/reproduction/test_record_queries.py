"""Queries of committed records; test_prose_figures.py covers summaries and second sets through the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reproduction.record_queries import RecordQueries, nested

from retention.errors import DataError
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


def test_paired_records_of_several_seeds_are_pooled(tmp_path: Path) -> None:
    for seed, mean in enumerate((0.01, 0.03)):
        difference = {"mean": mean, "bootstrap_low": mean - 0.01, "bootstrap_high": mean + 0.01} | {"low": 0, "high": 0}
        record = {"kind": "paired", "first": {"seed": seed}, "rows": 100, "seed": seed, "difference": difference}
        append_record(tmp_path / "differences.jsonl", record)
    queries = RecordQueries(tmp_path)
    query = {"records": "differences.jsonl", "where": {"kind": "paired"}, "scale": 100}
    mean, low, high = (queries.measure({**query, "value": f"pooled {end}"}) for end in ("mean", "low", "high"))
    assert mean == pytest.approx(2.0) and low < 0.1 and high > 3.9, "wider than the interval of either seed"
    with pytest.raises(DataError, match="no record to pool"):
        queries.measure({**query, "value": "pooled mean", "where": {"kind": "quality"}})
