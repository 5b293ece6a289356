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


@pytest.mark.slow
def test_custom_task_trains(tmp_path: Path) -> None:
    output = run_example(tmp_path, "custom_task/train.py", "task.epochs=1", f"hydra.run.dir={tmp_path}/run")
    assert "entities" in output
    assert (tmp_path / "run" / "record.json").is_file()
