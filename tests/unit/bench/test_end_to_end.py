"""Run ``retention bench`` on a two-layer encoder; times are not asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retention.bench.inputs import make_inputs
from retention.bench.main import main
from retention.bench.memory import peak_memory_in_process, peak_memory_in_subprocess
from retention.bench.plan import build_plan
from retention.bench.settings import BenchSettings
from retention.bench.variants import list_variants
from retention.records import read_records


@pytest.fixture
def arguments(tiny: str, tmp_path: Path) -> list[str]:
    """Return the arguments of a tiny measurement."""
    small = {"length": "16", "batch": "3", "batches": "2", "rounds": "2", "warmup": "1", "device": "cpu"}
    options = {"backbone": tiny, **small, "record": str(tmp_path / "speed.jsonl")}
    return [argument for flag, value in options.items() for argument in (f"--{flag}", value)]


def test_synthetic_inputs(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--rho", "0.5", "0.25", "--policy", "adaptive", "truncate"]) == 0
    records = read_records([tmp_path / "speed.jsonl"])
    assert [(record["policy"], record["rho"]) for record in records] == [
        ("adaptive", 0.5),
        ("adaptive", 0.25),
        ("truncate", 0.5),
        ("truncate", 0.25),
    ]
    for record in records:
        assert record["speedup"]["low"] <= record["speedup"]["median"] <= record["speedup"]["high"]
        assert record["speedup"]["low"] > 0
        assert record["baseline"] in ("dense-sdpa", "dense-eager")
        assert record["keep_ratio"]["by_layer"] == {"0": record["rho"]}
        assert record["share_of_ideal"] == pytest.approx(record["speedup"]["median"] / record["ideal_speedup"])
        assert record["command"].startswith("retention bench --backbone")
    assert records[3]["ideal_speedup"] > records[1]["ideal_speedup"] > records[0]["ideal_speedup"] > 1.0
    shown = capsys.readouterr()
    assert "dense-eager" in shown.out and "scoring alone (adaptive" in shown.out
    assert "round 3 of 3" in shown.err and "speed.jsonl" in shown.err


def test_training_on_task_data(arguments: list[str], tmp_path: Path) -> None:
    task = ["--task", "keywords", "--length", "100", "120", "--set", "data.test_size=12"]
    assert main([*arguments, *task, "--phase", "train", "--policy", "random", "--rho", "0.3"]) == 0
    records = read_records([tmp_path / "speed.jsonl"])
    assert [(record["phase"], record["length"]) for record in records] == [("train", 100), ("train", 120)]
    assert set(records[0]["timing"]["dense_ms_per_batch"]) == {
        *("dense-sdpa", "dense-eager", "dense-sdpa-padded", "dense-packed")
    }
    assert records[0]["data"]["source"] == "keywords (generated)"
    assert records[0]["timing"]["scoring_share"] is None
    assert records[0]["activations"]["share"] < 1.0
    assert len(records[0]["activations"]["saved_by_layer"]) == 2


def test_half_precision(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--dtype", "bfloat16", "--policy", "adaptive", "--rho", "0.5"]) == 0
    [record] = read_records([tmp_path / "speed.jsonl"])
    assert record["dtype"] == "bfloat16"


def test_wrong_settings_are_reported_without_a_traceback(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--rho", "1.7", "--length", "141"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("ConfigError: 2 problems\n")
    assert "\n  --rho: " in shown and "1.7" in shown
    assert not (tmp_path / "speed.jsonl").exists()


def test_missing_model_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--path", str(tmp_path / "nowhere")]) == 2
    shown = capsys.readouterr().err
    assert "\n  --path: " in shown and "pass --path <folder>" in shown


def test_incompatible_sizes_are_reported_without_a_traceback(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--set", "backbone.fields.num_attention_heads=3"]) == 2
    assert "ConfigError: 1 problem\n  backbone: The hidden size (16)" in capsys.readouterr().err


def test_too_few_test_rows_are_reported_without_a_traceback(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--task", "keywords", "--batches", "9", "--set", "data.test_size=6"]
    assert main([*arguments, *settings]) == 2
    assert "--batches: got 9, but the test data of keywords make 2" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "--phase train --backbone minilm" in capsys.readouterr().out


def test_peak_memory_of_every_variant(settings: Callable[..., BenchSettings]) -> None:
    small = settings(policies=("adaptive",))
    plan = build_plan(small)
    inputs = make_inputs(plan, 16, 3)
    for spec in list_variants(plan, inputs):
        peak = peak_memory_in_process(small, spec, inputs)
        assert peak.peak_mib >= peak.start_mib > 0
        assert peak.kind.startswith(("resident_peak", "cuda_allocated"))


def test_training_in_half_precision_saves_less(arguments: list[str], tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        assert main([*arguments, "--phase", "train", "--dtype", dtype, "--policy", "adaptive", "--rho", "0.5"]) == 0
    full, half = read_records([tmp_path / "speed.jsonl"])
    assert (full["dtype"], half["dtype"]) == ("float32", "bfloat16")
    assert half["activations"]["saved_mib"] < full["activations"]["saved_mib"]


@pytest.mark.slow
def test_peak_memory_in_a_subprocess(settings: Callable[..., BenchSettings]) -> None:
    small = settings(policies=("truncate",))
    plan = build_plan(small)
    inputs = make_inputs(plan, 16, 3)
    peak = peak_memory_in_subprocess(small, list_variants(plan, inputs)[-1], inputs)
    assert peak.peak_mib >= peak.start_mib > 0
