"""Make small finished runs of the built-in task, which the checks damage, interrupt or call."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from retention.experiment.hydra_setup import config_dir
from retention.experiment.run import run
from retention.records import Record

SMALL = (
    *("data.train_size=64", "data.test_size=32", "task.data.val_size=16", "task.data.batch_size=16"),
    *("retention.rho=0.3", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
    *("++callbacks.progress.log_refresh_rate=0", "compare=[]"),
)


def composed(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of a command line."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def start(folder: Path, *overrides: str) -> list[Record]:
    """Do what ``retention run <overrides>`` does, in a run folder."""
    words = [f"paths.run_dir={folder}", *overrides]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return run(compose("config", overrides=words), words, lambda extra: compose("config", overrides=extra))


@contextmanager
def quiet_libraries(cache: Path) -> Iterator[None]:
    """Keep tokenized rows in a folder of their own, and hide warnings and progress of libraries."""
    before = datasets.config.HF_DATASETS_CACHE
    cache.mkdir(parents=True, exist_ok=True)
    datasets.config.HF_DATASETS_CACHE = cache
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
            datasets.enable_progress_bars()
            datasets.config.HF_DATASETS_CACHE = before
