"""Hand-made records for tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Record = dict[str, Any]


@pytest.fixture
def quality() -> Callable[..., Record]:
    """Make a quality record of SST-2; policy, keep ratio, accuracy and seed by position, other fields by name."""

    def make(
        policy: str,
        rho: float,
        accuracy: float | None,
        seed: int = 0,
        *,
        hyperparameters: Record | None = None,
        **changes: Any,
    ) -> Record:
        policy_config: Record = {"_target_": f"x.{policy}", "rho": rho, "beta": 0.66, "gamma": -0.1, "zeta": 1.1} | (
            hyperparameters or {}
        )
        record: Record = {
            "kind": "quality",
            "at": f"results/quality/made.jsonl:{seed + 1}",
            "commit": "0123456789abcdef",
            "date": "2026-01-01T00:00:00+00:00",
            "config": {"seed": seed, "prune_at": "after_layer", "retention": policy_config},
            "seed": seed,
            "task": "sst2",
            "data": {"source": "SST-2 (GLUE)", "train": 67349, "test": 872, "max_length": 64},
            "policy": policy,
            "backbone": "distilbert",
            "rho": rho,
            "keep_ratio": {"mean": rho, "by_layer": {"0": 2 * rho, "1": 0.0}},
            "flops_ratio": 0.1 + 0.9 * rho,
            "metrics": {"accuracy": accuracy},
            "monitor": "accuracy",
        }
        return record | changes

    return make


@pytest.fixture
def speed(quality: Callable[..., Record]) -> Callable[..., Record]:
    """Make a speed record that matches the quality records."""

    def make(policy: str, rho: float, median: float, **changes: Any) -> Record:
        record: Record = {
            "kind": "speed",
            "at": "results/speed/made.jsonl:1",
            "commit": "0123456789abcdef",
            "date": "2026-01-01T00:00:00+00:00",
            "config": {"bench": {}, "retention": quality(policy, rho, 1.0)["config"]["retention"]},
            "seed": 0,
            "machine": {"cpu": "some CPU", "cores": 2, "gpu": None},
            "phase": "inference",
            "backbone": "distilbert",
            "device": "cpu",
            "dtype": "float32",
            "batch": 32,
            "length": 64,
            "policy": policy,
            "rho": rho,
            "prune_at": "after_layer",
            "baseline": "dense-sdpa",
            "speedup": {"median": median, "low": median - 0.05, "high": median + 0.05},
            "ideal_speedup": 2.5,
            "share_of_ideal": median / 2.5,
            "peak_mib": None,
            "baseline_peak_mib": None,
            "data": {"source": "SST-2 (GLUE)"},
            "timing": {"ms_per_batch": 5.0, "dense_ms_per_batch": {"dense-sdpa": 10.0}, "threads": 2},
        }
        return record | changes

    return make
