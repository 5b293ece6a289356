"""What was said of every test row, in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.callbacks import Predictions
from retention.errors import ConfigError


def test_one_line_per_answer(
    trainer_with: Callable[..., Any], toy: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    module = toy()
    said = [{"index": 0, "prediction": 1}, {"index": 1, "text": "naïve \u2028 cat\n"}]

    def say(stage: str) -> None:
        module.last_prediction_rows = said

    module.during = say
    trainer = trainer_with(Predictions(dirpath=str(tmp_path / "run")))
    trainer.validate(module, loader_of([batch_of([3])]), verbose=False)
    assert not (tmp_path / "run").exists(), "of tests alone"
    trainer.test(module, loader_of([batch_of([3])]), verbose=False)
    lines = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == said and lines[-1] == ""


def test_a_folder_is_needed() -> None:
    with pytest.raises(ConfigError, match="dirpath: is empty"):
        Predictions(dirpath="")
