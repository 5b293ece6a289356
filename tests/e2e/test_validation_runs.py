"""Runs that are scored on validation rows only, and their later test."""

from __future__ import annotations

import json
import os
import shutil
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


@pytest.mark.parametrize("typed", [(), ("ckpt=last",)])
def test_a_tested_model_is_validated_without_another_training(
    typed: tuple[str, ...],
    validated: Any,
    start: Any,
    finished: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    before = {name: (folder / name).read_bytes() for name in ("record.json", "predictions.jsonl", "README.md")}
    logged = (folder / "metrics.csv").read_text().splitlines()
    monkeypatch.setattr(
        "retention.training.module.RetentionModule.training_step", lambda *_: pytest.fail("trained again")
    )
    [record] = start(folder, "evaluate=validation", *typed)
    assert record["kind"] == "validation" and record["metrics"] == validated[1]["metrics"]
    assert record["training_cost"] == finished.record["training_cost"]
    assert record["training"]["steps"] == finished.record["training"]["steps"]
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len((folder / "metrics.csv").read_text().splitlines()) == len(logged) + 1
    [again], [tested] = start(folder, "evaluate=validation"), start(folder)
    assert again == json.loads(json.dumps(record)) and tested == json.loads(json.dumps(finished.record))


def test_a_validated_model_is_tested_by_the_same_command(
    validated: Any, start: Any, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(validated[0], tmp_path / "run")
    (folder / "record.json").unlink(missing_ok=True)  # another test may have tested it
    monkeypatch.setattr(
        "retention.training.module.RetentionModule.training_step", lambda *_: pytest.fail("trained again")
    )
    [record] = start(folder)
    assert record["kind"] == "quality" and record["metrics"] == finished.record["metrics"]
    assert (folder / "validation.json").exists()


def test_record_of_validation_rows_does_not_outlive_its_training(validated: Any, start: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(validated[0], tmp_path / "run")
    (folder / "record.json").unlink(missing_ok=True)
    start(folder, "trainer.max_epochs=2", "task.epochs=2", "ckpt=last")
    assert (folder / "record.json").exists() and not (folder / "validation.json").exists()


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
