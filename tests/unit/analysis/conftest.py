"""Records as runs leave them, with figures that are easy to work out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Record = dict[str, Any]
KNOBS = {"beta": 0.66, "gamma": -0.1, "zeta": 1.1}


@pytest.fixture
def quality_record() -> Callable[..., Record]:
    """``quality_record(policy, rho, value, seed, **changes)``: SST-2 with MiniLM."""

    def make(policy: str, rho: float, value: float, seed: int = 0, **changes: Any) -> Record:
        retention = {"rho": rho, **(KNOBS if policy == "adaptive" else {}), **changes.pop("retention", {})}
        return {
            "kind": "quality",
            "task": "sst2",
            "data": {"source": "SST-2 (GLUE)", "train": 20000, "test": 872, "max_length": 64},
            "policy": policy,
            "backbone": "minilm",
            "rho": rho,
            "seed": seed,
            "kept_share": {"mean": rho, "by_layer": {"0": 1.5 * rho, "1": 0.5 * rho}},
            "flops_share": rho + 0.1,
            "metrics": {"accuracy": value},
            "monitor": "accuracy",
            "config": {"retention": retention, "place": "after_layer"},
            "commit": "0123456789abcdef",
            "date": "2026-05-04T10:00:00+00:00",
            "at": f"results/quality/sst2.jsonl:{seed + 1}",
            **changes,
        }

    return make


@pytest.fixture
def speed_record() -> Callable[..., Record]:
    """``speed_record(policy, rho, speedup, **changes)``: inference of the same encoder at 64 tokens."""

    def make(policy: str, rho: float, speedup: float, **changes: Any) -> Record:
        return {
            "kind": "speed",
            "phase": "inference",
            "backbone": "minilm",
            "device": "cpu",
            "dtype": "float32",
            "batch": 32,
            "length": 64,
            "policy": policy,
            "rho": rho,
            "place": "after_layer",
            "baseline": "dense-sdpa",
            "speedup": {"median": speedup, "low": speedup - 0.1, "high": speedup + 0.1},
            "ideal_speedup": 2.5,
            "share_of_ideal": speedup / 2.5,
            "peak_mib": 600.0,
            "baseline_peak_mib": 1000.0,
            "rest_mib": 500.0,
            "baseline_rest_mib": 500.0,
            "data": {"source": "SST-2 (GLUE)"},
            "timing": {
                "ms_per_batch": 50.0,
                "dense_ms_per_batch": {"dense-sdpa": 100.0},
                "threads": 2,
                "scoring_share": {"median": 0.01, "low": 0.005, "high": 0.015},
            },
            "machine": {"cpu": "a CPU", "cores": 2},
            "config": {"retention": {"rho": rho, **KNOBS}},
            "commit": "fedcba9876543210",
            "date": "2026-05-05T10:00:00+00:00",
            "at": "results/speed/minilm.jsonl:1",
            **changes,
        }

    return make
