"""Fixtures with small real runs: the built-in task on the tiny encoder, one epoch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hydra import compose, initialize_config_dir

from retention.experiment.run import run
from retention.models.state_dict import model_state
from retention.records import Record

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.train_size=64",
    "data.test_size=32",
    "task.data.val_size=16",
    "task.data.batch_size=16",
    "retention.rho=0.25",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "++callbacks.progress.log_refresh_rate=0",
    "compare=[]",
)

TWO_EPOCHS = ("trainer.max_epochs=2", "dual=ascent", "dual.eta=0.5")
EVERY_STEP = "++callbacks.checkpoint.every_n_train_steps=1"
# Runs run.py, which sends itself a signal in the n-th call of a method of RetentionModule.
SIGNAL_SCRIPT = """
import os
from retention.training.module import RetentionModule
hook, count, number = {hook!r}, {count}, {number}
original, calls = getattr(RetentionModule, hook), []
def send(self, *arguments, **options):
    calls.append(None)
    if len(calls) == count:
        os.kill(os.getpid(), number)
    return original(self, *arguments, **options)
setattr(RetentionModule, hook, send)
command = {command!r}
exec(compile(open(command).read(), command, "exec"), {{"__name__": "__main__"}})
"""

Start = Callable[..., list[Record]]


@dataclass(frozen=True)
class Finished:
    """Finished run: its folder, its record and the file that the record was appended to."""

    folder: Path
    record: Record
    records: Path

    @property
    def checkpoint(self) -> Path:
        """Return the last checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep tokenized rows in a temporary folder."""
    folder = tmp_path_factory.mktemp("datasets")
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    yield folder
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def start_bare() -> Start:
    """Return a function that does what ``python run.py *overrides`` does in a given run folder."""

    def begin(folder: Path, *typed: str) -> list[Record]:
        overrides = [f"paths.run_dir={folder}", *typed]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", overrides=overrides)
            return run(config, overrides, lambda extra: compose("config", overrides=extra))

    return begin


@pytest.fixture(scope="session")
def start(start_bare: Start) -> Start:
    """Return the same function with the settings of a small run before the overrides."""
    return lambda folder, *typed: start_bare(folder, *SMALL, *typed)


@pytest.fixture(scope="session")
def finished(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return one small run of the adaptive policy."""
    folder = tmp_path_factory.mktemp("finished")
    records = folder / "results" / "runs.jsonl"
    [record] = start(folder / "run", f"record={records}")
    return Finished(folder / "run", record, records)


@pytest.fixture(scope="session")
def dense(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return one small run of the dense model."""
    folder = tmp_path_factory.mktemp("dense")
    [record] = start(folder, "retention=dense", "retention.rho=1.0")
    return Finished(folder, record, folder / "none")


@pytest.fixture
def weights_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Return a function that reads the weights of a checkpoint, with the names of ``RetentionModel``."""
    return lambda path: model_state(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])


@pytest.fixture
def command_line(cache_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that runs ``python run.py *overrides`` in ``tmp_path``, by default with small settings."""

    def call(
        *words: str,
        flags: Sequence[str] = (),
        script: Path = ROOT / "run.py",
        small: bool = True,
        path: Path | None = None,
    ) -> Any:
        folders = os.pathsep.join(str(folder) for folder in (ROOT / "src", path) if folder is not None)
        environment = {**os.environ, "PYTHONPATH": folders, "HF_DATASETS_CACHE": str(cache_folder)}
        command = [sys.executable, str(script), *flags, *(SMALL if small else ()), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    return call


@pytest.fixture
def send_signal(command_line: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command line and sends it a signal in the n-th call of a hook."""

    def call(
        number: int, hook: str, count: int, *typed: str, flags: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / f"signal_{hook}_{count}.py"
        script.write_text(
            SIGNAL_SCRIPT.format(hook=hook, count=count, number=int(number), command=str(ROOT / "run.py"))
        )
        done: subprocess.CompletedProcess[str] = command_line(*typed, script=script, flags=flags)
        return done

    return call


@pytest.fixture(scope="session")
def two_epochs(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return an uninterrupted run of two epochs of four steps that kept a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("two_epochs")
    [record] = start(folder, *TWO_EPOCHS, "callbacks.checkpoint.save_top_k=-1", EVERY_STEP)
    return Finished(folder, record, folder / "none")
