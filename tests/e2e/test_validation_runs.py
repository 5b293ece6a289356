"""Runs that are scored on validation rows only, and their later test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from retention.errors import ConfigError
from retention.records import read_records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def validated(start: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    """Return the folder, the record and the record file of a run that scored no test row."""
    folder = tmp_path_factory.mktemp("validated")
    file = folder / "records.jsonl"
    [record] = start(folder / "run", "evaluate=validation", f"record={file}")
    return folder / "run", record, file


def test_validation_scores_no_test_row(validated: Any) -> None:
    folder, record, file = validated
    assert record["kind"] == "validation" and record["data"]["val"] == 16 and record["metrics"]["accuracy"] >= 0
    assert record["data"]["truncated"]["test"] is None, "the test split was not read"
    assert not (folder / "predictions.jsonl").exists() and not (folder / "record.json").exists()
    assert json.loads((folder / "validation.json").read_text()) == record == read_records([file])[0]
    assert record["training_cost"]["total_dense_epochs"] == record["training_cost"]["dense_epochs"] > 0


def test_a_validated_model_is_tested_without_another_training(
    validated: Any, start: Any, finished: Any, weights_of: Any
) -> None:
    folder, record, _ = validated
    checkpoint = folder / "checkpoints" / "last.ckpt"
    written = os.stat(checkpoint).st_mtime_ns
    [again] = start(folder, "evaluate=validation")
    assert again == record, "a finished validation is not repeated"
    [tested] = start(folder, "ckpt=last")
    assert tested["kind"] == "quality" and os.stat(checkpoint).st_mtime_ns == written
    assert tested["metrics"] == finished.record["metrics"], "a run that is tested at once has the same result"
    assert tested["training_cost"] == record["training_cost"] == finished.record["training_cost"]
    assert (folder / "predictions.jsonl").exists() and (folder / "validation.json").exists()


@pytest.mark.parametrize("typed", ["init={} distill.weight=0.9", "distill.teacher={} distill.saliency=1.0"])
def test_cost_of_the_dense_run_is_part_of_the_total(typed: str, start: Any, dense: Any, tmp_path: Path) -> None:
    [record] = start(tmp_path / "run", *typed.format(dense.checkpoint).split())
    cost = record["training_cost"]
    assert cost["earlier_dense_epochs"] == pytest.approx(1.0)
    if "saliency" not in typed:  # which takes a backward pass of the teacher too
        assert cost["teacher_dense_epochs"] == pytest.approx(1 / 3)
    assert cost["total_dense_epochs"] == pytest.approx(1.0 + cost["dense_epochs"])


@pytest.mark.parametrize("typed", [("evaluate=train",), ("evaluate=validation", "mode=test", "ckpt=x.ckpt")])
def test_other_rows_and_modes_are_refused(start: Any, tmp_path: Path, typed: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="evaluate"):
        start(tmp_path / "run", *typed)
