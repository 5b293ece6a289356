"""Settings of the unit tests: property tests draw the same examples in every run; a quiet trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.fixture
def trainer_with(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """Builds a quiet CPU trainer: ``trainer_with(callback, max_epochs=2)``."""

    def build(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        quiet: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(callbacks=list(callbacks), **(quiet | options))

    return build
