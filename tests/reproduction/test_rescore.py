"""Scores that are added to finished runs from their predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reproduction.rescore import main, rescore

from retention.errors import DataError
from retention.records import read_records

TEXTS = ("not good", "fine", "slow but fine", "never dull")
LABELS = (0, 1, 1, 1)
PREDICTIONS = (0, 1, 0, 1)
TARGET = "retention.tasks.classification.data.TextClassificationData"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a run folder and the data folder ``data`` beside it."""
    settings: dict[str, Any] = {
        "_target_": TARGET,
        "name": "made_up",
        "source_note": "made up",
        "hub": None,
        "dir": None,
    }
    settings |= {"label_names": ["negative", "positive"], "text_column": "text", "label_column": "label"}
    settings |= {"splits": {"train": "train", "val": None, "test": "test"}, "max_length": 16, "seed": 0}
    settings |= {"train_size": None, "val_size": 1, "test_size": None, "batch_size": 2, "eval_batch_size": 2}
    record = {"kind": "quality", "task": "made_up", "policy": "dense", "rho": 1.0, "seed": 3, "backbone": "tiny"}
    record |= {"data": {"source": "made up"}, "config": {"task": {"data": settings}}, "metrics": {}}
    folder, data = tmp_path / "run", tmp_path / "data"
    folder.mkdir()
    data.mkdir()
    (folder / "record.json").write_text(json.dumps(record))
    rows = [
        {"index": i, "prediction": p, "label": y, "score": float(p == y), "probabilities": [1.0 - 0.8 * p, 0.8 * p]}
        for i, (p, y) in enumerate(zip(PREDICTIONS, LABELS, strict=True))
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    return folder


def test_scores_and_groups_come_from_the_predictions(run: Path) -> None:
    result = rescore(run, run.parent / "data")
    assert result.metrics["worst_class_recall"] == pytest.approx(2 / 3)
    # confidence 0.8 twice, both right; confidence 1 twice, one of them right
    assert result.metrics["ece"] == pytest.approx((2 * 0.2 + 2 * 0.5) / 4)
    assert result.groups == {
        "negation": {"rows": 2, "score": 1.0},
        "contrast": {"rows": 1, "score": 0.0},
        "neither": {"rows": 1, "score": 1.0},
    }
    assert rescore(run).groups == {} and result.of["seed"] == 3


def test_rows_of_another_file_are_refused(run: Path) -> None:
    file = run.parent / "data" / "test.jsonl"
    file.write_text(file.read_text().replace('"label": 0', '"label": 1'))
    with pytest.raises(DataError, match="not those of the predictions"):
        rescore(run, file.parent)


def test_predictions_without_probabilities_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "predictions.jsonl").write_text('{"index": 0, "score": 1.0}\n')
    assert main([str(run)]) == 2
    assert "has no probabilities" in capsys.readouterr().err


def test_records_name_the_run(run: Path, tmp_path: Path) -> None:
    assert main([str(run), "--record", str(tmp_path / "r.jsonl")]) == 0
    [record] = read_records([tmp_path / "r.jsonl"])
    assert record["kind"] == "rescore" and record["of"]["policy"] == "dense" and record["metrics"]["nll"] > 0


def test_missing_data_names_the_option(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--data", str(tmp_path / "nowhere")]) == 2
    assert "no such folder; pass --data <folder with" in capsys.readouterr().err
