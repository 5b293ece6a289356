"""Examples run as scripts, offline, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run_example(folder: Path, name: str, *arguments: str) -> str:
    """Run a script in ``folder`` and return what it prints."""
    settings = {"PYTHONPATH": str(ROOT / "src"), "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart_keeps_the_requested_ratio(tmp_path: Path) -> None:
    output = run_example(tmp_path, "quickstart.py")
    lengths, *kept = [line.partition(": ")[2] for line in output.splitlines() if line.startswith(("real", "kept"))]
    expected = [int(0.3 * int(length)) for length in lengths.strip("[]").split(",")]
    assert kept == [str(expected)] * 3


def test_custom_policy_keeps_the_requested_ratio(tmp_path: Path) -> None:
    output = run_example(tmp_path, "custom_policy.py")
    assert output.count("of [40, 30] tokens") == 3
    assert "positions of the first sequence" in output


def test_trained_model_predicts_and_saves_a_heat_map(trained_run: Path, tmp_path: Path) -> None:
    output = run_example(tmp_path, "trained_model.py", str(trained_run))
    assert output.count("of the tokens)") == 2
    assert "<html" in (tmp_path / "kept_tokens.html").read_text(encoding="utf8")


def test_pipeline_keeps_the_requested_ratio(tmp_path: Path) -> None:
    output = run_example(tmp_path, "pipeline.py", "--rho", "0.4")
    assert "kept 26 of 66 tokens" in output and "kept 13 of 34 tokens" in output


def test_lora_merges_under_retention(tmp_path: Path) -> None:
    output = run_example(tmp_path, "lora.py")
    [difference] = [line.rpartition(" ")[2] for line in output.splitlines() if line.startswith("largest difference")]
    assert float(difference) < 1e-4


def test_embed_corpus_writes_parquet_and_continues(tmp_path: Path) -> None:
    arguments = ("--output", str(tmp_path / "out"), "--part-size", "5")
    first = run_example(tmp_path, "embed_corpus.py", *arguments)
    assert first.count("of 12 texts") == 3 and len(list((tmp_path / "out").glob("part-*.parquet"))) == 3
    page = (tmp_path / "out" / "hits.html").read_text(encoding="utf8")
    assert page.count("<section") == 3 and "dropped after layer" in page
    (tmp_path / "out" / "part-00001.parquet").unlink()
    second = run_example(tmp_path, "embed_corpus.py", *arguments)
    assert second.count("of 12 texts") == 1
    command = [sys.executable, str(EXAMPLES / "embed_corpus.py"), *arguments, "--rho", "0.9"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert refused.returncode == 1 and "begun with another rho" in refused.stderr


@pytest.mark.slow
def test_trainer_of_transformers_learns_the_task(tmp_path: Path) -> None:
    output = run_example(tmp_path, "hf_trainer.py")
    [accuracy] = [line.rpartition(" ")[2] for line in output.splitlines() if line.startswith("accuracy")]
    assert float(accuracy) > 0.9
    assert "keep ratio: 0.3" in output


@pytest.mark.slow
def test_custom_task_trains(tmp_path: Path) -> None:
    output = run_example(tmp_path, "custom_task/train.py", "task.epochs=1", f"hydra.run.dir={tmp_path}/run")
    assert "entities" in output
    assert (tmp_path / "run" / "record.json").is_file()
