"""A two-layer BERT with random weights, as a file that --backbone takes, and plans made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from retention.bench.plan import Plan, make_plan
from retention.bench.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
TINY = """\
_target_: retention.models.backbone.Scratch
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
    """Path of the tiny encoder's configuration."""
    path = tmp_path / "two_layers.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def settings(tiny: str) -> Callable[..., Settings]:
    """``settings(**changes)``: a case small enough for a test."""

    def make(**changes: Any) -> Settings:
        small: dict[str, Any] = {
            "conf": ROOT / "conf",
            "backbone": tiny,
            "lengths": (16,),
            "batch_sizes": (3,),
            "batches": 2,
            "rhos": (0.5,),
            "rounds": 2,
            "warmup": 1,
        }
        return Settings(**{**small, **changes})

    return make


@pytest.fixture
def plan(settings: Callable[..., Settings]) -> Callable[..., Plan]:
    """``plan(**changes)``: the checked plan of such a case."""

    def make(**changes: Any) -> Plan:
        return make_plan(settings(**changes))

    return make
