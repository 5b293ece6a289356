"""Tests of the equal-time table."""

from __future__ import annotations

from typing import Any

import pytest
from reproduction.equal_time import equal_time_table, int8_table
from reproduction.sources import RecordSet
from reproduction.timed_models import OTHER_ENCODERS, latest_latency

from retention.errors import DataError


def model(policy: str, milliseconds: float, **changes: Any) -> dict[str, Any]:
    times = {"median": milliseconds, "low": milliseconds, "high": milliseconds}
    fixed = {"policy": policy, "rho": 1.0, "seed": 0, "layers": None, "saliency": 0.0, "flops_ratio": 1.0}
    speedup = {"median": 10.0 / milliseconds, "low": 1.0, "high": 9.0}
    return {**fixed, "metric": 0.5, "monitor": "accuracy", "ms_per_row": times, "speedup": speedup, **changes}


def latency(date: str, *models: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "latency", "task": "reviews", "date": date, "models": list(models)}


def test_models_are_sorted_from_slow_to_fast() -> None:
    pruned = model("adaptive", 4.0, rho=0.3, saliency=3.0, flops_ratio=0.4, metric=0.75)
    record = latency("2026-01-02", pruned, model("dense", 10.0), model("fewer_layers", 5.0, layers=3))
    lines = equal_time_table(RecordSet((record,)), "reviews").splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["dense", "fewer layers", "adaptive, saliency-distilled"]
    cells = [cell.strip() for cell in lines[2].split("|")[2:-1]]
    assert cells == ["0.3", "all", "75.0 (1 seed)", "-", "40.0 %", "4.00", "2.50x (1.00-9.00)"]


def test_training_is_counted_in_dense_epochs(quality: Any) -> None:
    counted = quality("adaptive", 0.3, 0.75, task="reviews", training_cost={"dense_epochs": 1.26})
    earlier = quality("adaptive", 0.3, 0.85, 1, task="reviews")
    record = latency("2026-01-02", model("adaptive", 4.0, rho=0.3, metric=0.75))
    [line] = equal_time_table(RecordSet((counted, earlier, record)), "reviews").splitlines()[2:]
    assert [cell.strip() for cell in line.split("|")[4:6]] == ["80.0 ± 7.1 (2 seeds)", "1.3 epochs"]


def test_models_of_another_encoder_have_a_table_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OTHER_ENCODERS, "reviews_large", ("reviews", "large"))
    small = latency("2026-01-01", model("dense", 10.0)) | {"backbone": "small"}
    large = latency("2026-02-01", model("dense", 40.0)) | {"backbone": "large"}
    records = RecordSet((small, large))
    assert latest_latency(records, "reviews") is small and latest_latency(records, "reviews_large") is large
    assert "40.00" in equal_time_table(records, "reviews_large")


def test_int8_copies_stand_beside_their_models_with_the_scores_of_the_timed_rows() -> None:
    models = [model("dense", 10.0, int8=False, metric_on_rows=0.5), model("dense", 4.0, int8=True, metric_on_rows=0.25)]
    record = latency("2026-01-02", *models) | {"data": {"rows": 8}}
    lines = int8_table(RecordSet((record,)), "reviews").splitlines()
    assert "accuracy on 8 rows" in lines[0]
    cells = [[cell.strip() for cell in line.split("|")[4:-1]] for line in lines[2:]]
    assert cells == [["float32", "50.0", "10.00", "1.00x"], ["INT8", "25.0", "4.00", "2.50x"]]


def test_the_latest_record_of_the_task_counts() -> None:
    old, new = latency("2026-01-01", model("dense", 1.0)), latency("2026-02-01", model("dense", 2.0))
    assert latest_latency(RecordSet((new, old)), "reviews") is new
    half = latency("2026-03-01", model("dense", 3.0)) | {"dtype": "bfloat16"}
    assert latest_latency(RecordSet((new, half)), "reviews") is new
    assert latest_latency(RecordSet((new, half)), "reviews", "bfloat16") is half
    copies = latency("2026-04-01", model("dense", 1.0, int8=False), model("dense", 0.5, int8=True))
    assert latest_latency(RecordSet((new, copies)), "reviews") is new
    assert latest_latency(RecordSet((new, copies)), "reviews", int8=True) is copies
    with pytest.raises(DataError, match="no latency record of papers"):
        latest_latency(RecordSet((new,)), "papers")
