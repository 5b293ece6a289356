"""Fixtures: tiny runs through the console command, in a folder outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SMALL = (
    *("task=keywords", "data.train_size=64", "data.test_size=32", "task.data.val_size=16", "task.data.batch_size=16"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "++callbacks.progress.log_refresh_rate=0", "compare=[]"),
)


@pytest.fixture
def run_small(tmp_path: Path) -> Callable[..., Path]:
    """Return ``run_small(*overrides)``: run ``retention run`` in a new folder and return the run folder."""

    def run(
        *overrides: str,
        command: Sequence[str | Path] = (sys.executable, "-m", "retention.cli"),
        python_path: Sequence[Path] = (),
    ) -> Path:
        folder = tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "PYTHONPATH": os.pathsep.join(map(str, python_path)),
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        }
        words = [*map(str, command), "run", *SMALL, *overrides]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        [record] = (folder / "outputs").rglob("record.json")
        return record.parent

    return run
