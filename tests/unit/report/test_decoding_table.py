"""Test the table of cache policies."""

from __future__ import annotations

from typing import Any

import pytest

from retention.report.decoding_table import decoding_table, main_value


def record(policy: str, seed: int = 0, size: int = 16, **values: Any) -> dict[str, Any]:
    return {"kind": "decoding", "task": "text", "policy": policy, "size": size, "seed": seed, **values}


def test_rows_are_means_over_seeds_with_the_full_cache_first() -> None:
    records = [
        record("learned", 0, loss=2.0),
        record("learned", 1, loss=3.0),
        record("full", 0, loss=1.0),
        record("learned", 0, size=32, loss=1.5),
        {"kind": "quality"},
        record("learned", 0, cost={"length": 1}),
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in decoding_table(records).splitlines()[2:]]
    assert rows == [
        ["text", "16", "full", "loss", "1.0000", "1"],
        ["text", "16", "learned", "loss", "2.5000 ± 0.7071", "2"],
        ["text", "32", "learned", "loss", "1.5000", "1"],
    ]


def test_the_later_record_of_a_seed_counts() -> None:
    table = decoding_table([record("random", accuracy=0.25), record("random", accuracy=0.5)])
    assert "0.5000" in table and "0.2500" not in table and "accuracy" in table


def test_runs_with_other_settings_have_rows_of_their_own() -> None:
    records = [
        record("learned", seed, loss=loss, model="a", config={"task": {"scorer_kind": kind}})
        for seed in (0, 1)
        for kind, loss in (("linear", 1.0), ("mlp", 2.0))
    ]
    table = decoding_table([*records, record("learned", 0, f1=0.5, model="b", config={})])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows == [
        ["text", "16", "learned", "f1", "0.5000", "1"],
        ["text", "16", "learned (scorer_kind=linear)", "loss", "1.0000 ± 0.0000", "2"],
        ["text", "16", "learned (scorer_kind=mlp)", "loss", "2.0000 ± 0.0000", "2"],
    ]
    apart = decoding_table([record("learned", 0, loss=1.0, model=name) for name in ("a", "b")])
    assert "learned (model=a)" in apart and "learned (model=b)" in apart


def test_other_records_give_no_table() -> None:
    assert decoding_table([{"kind": "quality"}, {"kind": "job"}]) == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"loss": 2}, 2.0), ({"f1": 0.5, "accuracy": 0.1}, 0.5), ({"accuracy": 0.0}, 0.0), ({}, None)],
)
def test_main_value_is_loss_then_f1_then_accuracy(values: dict[str, float], expected: float | None) -> None:
    assert main_value(values) == expected
