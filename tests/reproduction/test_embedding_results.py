"""Test the summary of embedding records."""

from __future__ import annotations

from typing import Any

import pytest
from reproduction.embedding_results import embedding_results_table

from retention.errors import DataError


def record(model: str, policy: str, layers: int, rho: float, stsb: float, speedup: float, **changes: Any) -> Any:
    metrics = {"stsb_spearman": stsb, "cranfield_ndcg10": 0.4}
    speed = {"speedup": {"median": speedup, "low": speedup, "high": speedup}}
    fixed = {"kind": "embedding", "split": "test", "reference": "base", "date": "2026-01-01", "metrics": metrics}
    described = {"model": model, "policy": policy, "layers": layers, "rho": rho, "flops_ratio": {"cranfield": 0.5}}
    return {**fixed, **described, "speed": speed, **changes}


RECORDS = [
    record("base", "dense", 6, 1.0, 0.82, 1.0),
    record("first", "dense", 3, 1.0, 0.70, 1.9),
    record("a", "adaptive", 6, 0.3, 0.79, 2.3),
    record("b", "adaptive", 6, 0.3, 0.81, 2.5),
]


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_seeds_of_a_method_are_one_row_and_rows_go_from_slow_to_fast() -> None:
    table = rows(embedding_results_table(RECORDS, "base"))
    assert [row[0] for row in table] == ["unpruned", "3 layers", "adaptive retention"]
    assert table[2][1:] == ["0.3", "2", "80.0 ± 1.4", "40.0 ± 0.0", "50 %", "2.40x"]


def test_latest_record_of_a_model_counts() -> None:
    later = record("first", "dense", 3, 1.0, 0.6, 1.9, date="2026-02-01")
    assert rows(embedding_results_table([later, *RECORDS], "base"))[1][3] == "60.0"


def test_times_may_come_in_a_record_of_their_own() -> None:
    untimed = [{**each, "speed": None} for each in RECORDS]
    timed = [{**each, "metrics": {"stsb_spearman": each["metrics"]["stsb_spearman"]}} for each in RECORDS]
    later = [{**each, "date": "2026-03-01"} for each in timed]
    assert embedding_results_table([*untimed, *later], "base") == embedding_results_table(RECORDS, "base")


def test_other_splits_and_references_are_left_out() -> None:
    others = [record("c", "adaptive", 6, 0.3, 0.1, 9.0, split="validation"), record("d", "dense", 1, 1.0, 0.1, 9.0)]
    others[1]["reference"] = "another"
    assert embedding_results_table([*RECORDS, *others], "base") == embedding_results_table(RECORDS, "base")
    with pytest.raises(DataError, match="no records of missing"):
        embedding_results_table(RECORDS, "missing")


def test_number_formats_and_models_are_rows_of_their_own() -> None:
    records = [
        record("base", "dense", 6, 1.0, 0.82, 1.0, reference="base-bfloat16", precision="bfloat16"),
        record("a-b", "adaptive", 6, 0.3, 0.79, 2.3, reference="base-bfloat16", precision="bfloat16"),
        record("a-b", "adaptive", 6, 0.3, 0.77, 2.1, reference="base-bfloat16", precision="int8"),
        record("c", "adaptive", 6, 0.3, 0.75, 2.0, reference="base-bfloat16", precision="int8"),
    ]
    names = [row[0] for row in rows(embedding_results_table(records, "base-bfloat16"))]
    assert names == ["unpruned, bfloat16", "adaptive retention, int8", "adaptive retention, bfloat16"]
    names = [row[0] for row in rows(embedding_results_table(records, "base-bfloat16", by_model=True))]
    assert names == ["unpruned, bfloat16", "a b, bfloat16", "a b, int8", "c, int8"]
