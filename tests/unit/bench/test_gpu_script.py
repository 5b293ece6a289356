"""Check the messages and commands of the GPU script; SMALL=1 runs all of it on a CPU, which takes two minutes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench_gpu.sh"


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT)], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_missing_cuda_device_is_reported() -> None:
    done = run(PYTHON="false")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr and "SMALL=1" in done.stderr


def test_unknown_shape_lists_the_valid_ones() -> None:
    done = run(PYTHON="false", SMALL="1", SHAPES="giant")
    assert done.returncode == 1
    assert "unknown shape giant; distilbert, bert, longformer or modernbert" in done.stderr


def test_failed_measurements_are_listed(tmp_path: Path) -> None:
    python = tmp_path / "python"  # measuring fails, drawing succeeds
    python.write_text('#!/usr/bin/env bash\ncase "$*" in *bench-plots*) exit 0 ;; *) echo "$*"; exit 1 ;; esac\n')
    python.chmod(0o755)
    done = run(PYTHON=str(python), SMALL="1", SHAPES="bert modernbert", PHASES="train", LENGTHS="64 128", TOKENS="128")
    assert done.returncode == 1
    assert [line.split(": ")[-1] for line in done.stderr.splitlines() if "not measured" in line] == [
        *("bert train 64", "bert train 128", "modernbert train 64", "modernbert train 128")
    ]
    commands = done.stdout.splitlines()
    assert len(commands) == 4 and all("--dtype bfloat16" in command for command in commands)
    assert "--length 64 --batch 2 " in commands[0] and "--length 128 --batch 1 " in commands[1]
    assert "--prune-at after_attention" in commands[0] and "--prune-at after_layer" in commands[2]
