"""Test that a run checks where it will write before it trains, and counts what it trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.errors import ConfigError
from retention.tasks.classification.head import ClassificationHead

Start = Callable[..., Any]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a run gets as far as its data."""
    monkeypatch.setattr("retention.experiment.run.run_one", lambda *_: pytest.fail("the run was started"))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "results", "is a folder"),
        (lambda folder: folder / "results" / "runs.json", "suffix .jsonl"),
        (lambda folder: folder / "file" / "runs.jsonl", "cannot be written"),
        (lambda folder: Path("/dev/null/runs.jsonl"), "cannot be written"),
        (lambda folder: Path("/proc/runs.jsonl"), "cannot be written"),
    ],
)
def test_record_file_that_cannot_be_written_is_refused(
    make: Callable[[Path], Path], reason: str, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=reason) as caught:
        start(tmp_path / "run", f"record={make(tmp_path)}")
    assert [problem.key for problem in caught.value.problems] == ["record"]


@pytest.mark.usefixtures("no_training")
def test_run_folder_and_cache_that_cannot_be_written_are_refused(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(ConfigError) as caught:
        start(tmp_path / "file" / "run")
    assert [problem.key for problem in caught.value.problems] == ["paths.run_dir", "HF_DATASETS_CACHE"]


def test_check_of_outputs_leaves_no_files(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def reached(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr("retention.experiment.run.run_one", reached)
    with pytest.raises(Reached):
        start(tmp_path / "run", f"record={tmp_path}/new/runs.jsonl")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_unknown_metric_of_an_undeclared_head_ends_the_first_epoch(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassificationHead, "metric_names", ())
    with pytest.raises(ConfigError, match=r"must be one of accuracy, .*got 'nope'"):
        start(tmp_path, "task.monitor=nope", "trainer.max_epochs=50")


def test_record_counts_epochs_and_steps(finished: Any, start: Start, tmp_path: Path) -> None:
    assert (finished.record["training"]["epochs"], finished.record["training"]["steps"]) == (1, 4)
    [record] = start(tmp_path, "trainer.max_epochs=3", "+trainer.max_steps=6")
    assert record["training"]["steps"] == 6
    assert json.loads((tmp_path / "record.json").read_text())["training"]["steps"] == 6
