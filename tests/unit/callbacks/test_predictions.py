"""Check the file of test predictions in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.callbacks import Predictions
from retention.errors import ConfigError


def test_file_has_one_line_per_row(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    module = replay_module()
    rows = [{"index": 0, "prediction": 1}, {"index": 1, "text": "naïve \u2028 cat\n"}]

    def predict(stage: str) -> None:
        module.last_prediction_rows = rows

    module.during = predict
    trainer = trainer_with(Predictions(dirpath=str(tmp_path / "run")))
    trainer.validate(module, loader_of([batch_of([3])]), verbose=False)
    assert not (tmp_path / "run").exists(), "written by tests only"
    trainer.test(module, loader_of([batch_of([3])]), verbose=False)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows and lines[-1] == ""


def test_empty_folder_is_an_error() -> None:
    with pytest.raises(ConfigError, match="dirpath: is empty"):
        Predictions(dirpath="")
