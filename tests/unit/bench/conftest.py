"""Fixtures: a two-layer BERT with random weights as a --backbone file, and measurement plans for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from retention.bench.plan import BenchPlan, build_plan
from retention.bench.settings import BenchSettings
from retention.experiment.hydra_setup import config_dir

TINY = """\
_target_: retention.models.backbone.ScratchBackbone
name: two-layers
model_type: bert
fields:
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  intermediate_size: 32
  max_position_embeddings: 140
"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Return the path of the tiny encoder's configuration."""
    path = tmp_path / "two_layers.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def settings(tiny: str) -> Callable[..., BenchSettings]:
    """Return ``settings(**changes)``, which makes settings small enough for a test."""

    def make(**changes: Any) -> BenchSettings:
        small: dict[str, Any] = {
            "conf": config_dir(),
            "backbone": tiny,
            "lengths": (16,),
            "batch_sizes": (3,),
            "batches": 2,
            "rhos": (0.5,),
            "rounds": 2,
            "warmup": 1,
        }
        return BenchSettings(**{**small, **changes})

    return make


@pytest.fixture
def plan(settings: Callable[..., BenchSettings]) -> Callable[..., BenchPlan]:
    """Return ``plan(**changes)``, which builds the checked plan of such settings."""

    def make(**changes: Any) -> BenchPlan:
        return build_plan(settings(**changes))

    return make
