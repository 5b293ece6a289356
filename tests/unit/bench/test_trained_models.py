"""Tests of timing trained models side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from retention.bench.trained_models import format_latency, main, measure_latency
from retention.data.local_files import find_split_file
from retention.errors import ConfigError
from retention.records import read_records


def test_runs_are_timed_on_their_test_rows(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_file = tmp_path / "latency.jsonl"
    arguments = [str(trained_run), "--rows", "12", "--batch-size", "4", "--rounds", "2", "--record", str(record_file)]
    assert main(arguments) == 0
    assert "adaptive 0.3" in capsys.readouterr().out
    [record] = read_records([record_file])
    [model] = record["models"]
    assert (record["kind"], record["data"]["rows"], record["rounds"]) == ("latency", 12, 2)
    assert model["speedup"]["median"] == 1.0 and model["ms_per_row"]["median"] > 0
    assert record["backbone"] == "tiny"
    assert model["policy"] == "adaptive" and 0 < model["flops_ratio"] < 1


def test_int8_copies_are_timed_and_scored_beside_their_models(trained_run: Path) -> None:
    result = measure_latency([trained_run], rows=12, batch_size=4, rounds=1, int8=True)
    assert [model["int8"] for model in result.models] == [False, True]
    assert all(0.0 <= model["metric_on_rows"] <= 1.0 and model["ms_per_row"]["median"] > 0 for model in result.models)
    assert "int8" in format_latency(result).splitlines()[-1]
    with pytest.raises(ConfigError, match="--int8"):
        measure_latency([trained_run], device="cuda", int8=True)


def test_models_are_timed_in_another_number_format(trained_run: Path) -> None:
    assert measure_latency([trained_run], rows=4, batch_size=4, rounds=1, dtype="bfloat16").dtype == "bfloat16"
    for changes in ({"dtype": "float16"}, {"dtype": "bfloat16", "int8": True}):
        with pytest.raises(ConfigError, match="--dtype"):
            measure_latency([trained_run], rows=4, rounds=1, **changes)  # type: ignore[arg-type]


def test_a_run_that_was_only_validated_has_no_metric(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").unlink()
    (run / "validation.json").write_text(json.dumps({**record, "kind": "validation"}))
    result = measure_latency([trained_run, run], rows=4, batch_size=4, rounds=1)
    assert [model["metric"] for model in result.models] == [record["metrics"][record["monitor"]], None]
    assert " - " in format_latency(result).splitlines()[-1]


def test_models_of_other_tasks_are_refused(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "task": "imdb"}))
    with pytest.raises(ConfigError, match=rf"run: has the task imdb, .* has {record['task']}; time models of one task"):
        measure_latency([trained_run, run], rows=4, batch_size=4, rounds=1)


def test_numbers_out_of_range_are_refused(trained_run: Path) -> None:
    with pytest.raises(ConfigError, match="--rounds"):
        measure_latency([trained_run], rounds=0)


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_missing_data_names_the_option(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_data(*_: object) -> None:
        find_split_file("nowhere", "test")

    monkeypatch.setattr("retention.bench.trained_models.test_batches", without_data)
    assert main([str(trained_run)]) == 2
    assert "no such folder; pass --data <folder with" in capsys.readouterr().err
