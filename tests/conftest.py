"""What holds for every test: no network, one compute thread in each parallel worker, and how scripts are called."""

import importlib.util
import os
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
