"""Tests of the equal-time table."""

from __future__ import annotations

from typing import Any

import pytest
from reproduction.equal_time import equal_time_table
from reproduction.sources import RecordSet
from reproduction.timed_models import latest_latency

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
    assert cells == ["0.3", "all", "75.0 (1 seed)", "40.0 %", "4.00", "2.50x (1.00-9.00)"]


def test_the_latest_record_of_the_task_counts() -> None:
    old, new = latency("2026-01-01", model("dense", 1.0)), latency("2026-02-01", model("dense", 2.0))
    assert latest_latency(RecordSet((new, old)), "reviews") is new
    half = latency("2026-03-01", model("dense", 3.0)) | {"dtype": "bfloat16"}
    assert latest_latency(RecordSet((new, half)), "reviews") is new
    assert latest_latency(RecordSet((new, half)), "reviews", "bfloat16") is half
    with pytest.raises(DataError, match="no latency record of papers"):
        latest_latency(RecordSet((new,)), "papers")
