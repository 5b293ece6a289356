"""What holds for every test: no network, one compute thread in each parallel worker, and how scripts are called."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before any test imports the libraries that read them; processes that tests start inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

Main = Callable[[list[str]], int]


@pytest.fixture(scope="session")
def main_of() -> Callable[[str], Main]:
    """``main_of("report")``: the main function of ``scripts/report.py``, which takes the words of its command line."""

    def load(name: str) -> Main:
        path = Path(__file__).resolve().parent.parent / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{name}_script", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for their module
        spec.loader.exec_module(module)
        main: Main = module.main
        return main

    return load


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small finished run of the built-in task, made by the console command."""
    folder = tmp_path_factory.mktemp("trained_run")
    settings = [
        "data.train_size=64",
        "data.test_size=32",
        "task.data.val_size=16",
        "retention.rho=0.3",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "compare=[]",
        f"hydra.run.dir={folder}/run",
    ]
    source = Path(__file__).resolve().parents[1] / "src"
    variables = {"PYTHONPATH": str(source), "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "retention.cli", "run", *settings]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"
