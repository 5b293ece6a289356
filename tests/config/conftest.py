"""Fixtures that compose and run configurations inside the test process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from transformers import BertConfig, LEDConfig

from retention.experiment.run import run
from retention.models.backbone import PretrainedBackbone

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def conf() -> Path:
    """Return the folder of the configuration files."""
    return CONF


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DictConfig]:
    """Return a function that composes the configuration of a command line: ``composed("retention=dense", ...)``."""

    def make(*typed: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=[f"paths.run_dir={tmp_path}/run", *typed])

    return make


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that does what ``python run.py compare=[] ...`` does: ``start("retention.rho=0.3", ...)``."""

    def begin(*typed: str) -> Any:
        overrides = [f"paths.run_dir={tmp_path}/run", "trainer.accelerator=cpu", "compare=[]", *typed]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=overrides)
            return run(config, overrides, lambda extra: compose("config", overrides=extra))

    return begin


@pytest.fixture
def small_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give hub checkpoints the configuration of a small six-layer BERT classifier or LED, without loading them."""

    def config(self: PretrainedBackbone, vocab_size: int | None = None) -> BertConfig | LEDConfig:
        if self.name == "led":
            return LEDConfig(d_model=32, encoder_layers=6, encoder_attention_heads=2, encoder_ffn_dim=64)
        sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
        classes = ["BertForSequenceClassification"]
        return BertConfig(**sizes, max_position_embeddings=4096, architectures=classes)

    monkeypatch.setattr(PretrainedBackbone, "config", config)
