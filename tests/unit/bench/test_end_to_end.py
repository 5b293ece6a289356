"""The command itself, on a two-layer encoder; how long anything takes is not asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retention.bench.inputs import make_inputs
from retention.bench.memory import peak_alone, peak_here
from retention.bench.plan import make_plan
from retention.bench.settings import Settings
from retention.bench.variants import specs
from retention.records import read_records

Main = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def main(main_of: Callable[[str], Main]) -> Main:
    return main_of("bench")


@pytest.fixture
def words(tiny: str, tmp_path: Path) -> list[str]:
    """A tiny measurement."""
    small = {"length": "16", "batch": "3", "batches": "2", "rounds": "2", "warmup": "1", "device": "cpu"}
    chosen = {"backbone": tiny, **small, "record": str(tmp_path / "speed.jsonl")}
    return [word for flag, value in chosen.items() for word in (f"--{flag}", value)]


def test_synthetic_texts(main: Main, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--rho", "0.5", "0.25", "--policy", "adaptive", "truncate"]) == 0
    found = read_records([tmp_path / "speed.jsonl"])
    assert [(record["policy"], record["rho"]) for record in found] == [
        ("adaptive", 0.5),
        ("adaptive", 0.25),
        ("truncate", 0.5),
        ("truncate", 0.25),
    ]
    for record in found:
        assert record["speedup"]["low"] <= record["speedup"]["median"] <= record["speedup"]["high"]
        assert record["speedup"]["low"] > 0
        assert record["baseline"] in ("dense-sdpa", "dense-eager")
        assert record["keep_ratio"]["by_layer"] == {"0": record["rho"]}
        assert record["share_of_ideal"] == pytest.approx(record["speedup"]["median"] / record["ideal_speedup"])
        assert record["command"].startswith("python scripts/bench.py --backbone")
    assert found[3]["ideal_speedup"] > found[1]["ideal_speedup"] > found[0]["ideal_speedup"] > 1.0
    shown = capsys.readouterr()
    assert "dense-eager" in shown.out and "scoring alone (adaptive" in shown.out
    assert "round 3 of 3" in shown.err and "speed.jsonl" in shown.err


def test_real_texts_and_training(main: Main, words: list[str], tmp_path: Path) -> None:
    task = ["--task", "keywords", "--length", "100", "120", "--set", "data.test_size=12"]
    assert main([*words, *task, "--phase", "train", "--policy", "random", "--rho", "0.3"]) == 0
    found = read_records([tmp_path / "speed.jsonl"])
    assert [(record["phase"], record["length"]) for record in found] == [("train", 100), ("train", 120)]
    assert set(found[0]["timing"]["dense_ms_per_batch"]) == {
        *("dense-sdpa", "dense-eager", "dense-sdpa-padded", "dense-packed")
    }
    assert found[0]["data"]["source"] == "keywords (generated)"
    assert found[0]["timing"]["scoring_share"] is None
    assert found[0]["activations"]["share"] < 1.0
    assert len(found[0]["activations"]["saved_by_layer"]) == 2


def test_half_precision(main: Main, words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--dtype", "bfloat16", "--policy", "adaptive", "--rho", "0.5"]) == 0
    [record] = read_records([tmp_path / "speed.jsonl"])
    assert record["dtype"] == "bfloat16"


def test_mistakes_are_told_without_a_traceback(
    main: Main, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--rho", "1.7", "--slope", "2"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("ConfigError: 2 problems\n")
    assert "retention.rho: the kept share must be in (0, 1], got 1.7" in shown
    assert not (tmp_path / "speed.jsonl").exists()


def test_sizes_that_do_not_go_together_are_told_without_a_traceback(
    main: Main, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--set", "backbone.fields.num_attention_heads=3"]) == 2
    assert "ConfigError: 1 problem\n  backbone: The hidden size (16)" in capsys.readouterr().err


def test_missing_data_are_told_without_a_traceback(
    main: Main, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--task", "keywords", "--batches", "9", "--set", "data.test_size=6"]
    assert main([*words, *settings]) == 2
    assert "--batches: 9 asked, the test rows of keywords make 2" in capsys.readouterr().err


def test_the_help_has_examples(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "--phase train --backbone minilm" in capsys.readouterr().out


def test_peak_memory_has_a_number_for_every_variant(settings: Callable[..., Settings]) -> None:
    small = settings(policies=("adaptive",))
    plan = make_plan(small)
    inputs = make_inputs(plan, 16, 3)
    for spec in specs(plan, inputs):
        peak = peak_here(small, spec, inputs)
        assert peak.peak_mib >= peak.rest_mib > 0
        assert peak.kind.startswith(("resident_peak", "cuda_allocated"))


def test_training_in_half_precision_keeps_less(main: Main, words: list[str], tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        assert main([*words, "--phase", "train", "--dtype", dtype, "--policy", "adaptive", "--rho", "0.5"]) == 0
    full, half = read_records([tmp_path / "speed.jsonl"])
    assert (full["dtype"], half["dtype"]) == ("float32", "bfloat16")
    assert half["activations"]["saved_mib"] < full["activations"]["saved_mib"]


@pytest.mark.slow
def test_peak_memory_in_a_process_of_its_own(settings: Callable[..., Settings]) -> None:
    small = settings(policies=("truncate",))
    plan = make_plan(small)
    inputs = make_inputs(plan, 16, 3)
    peak = peak_alone(small, specs(plan, inputs)[-1], inputs)
    assert peak.peak_mib >= peak.rest_mib > 0
