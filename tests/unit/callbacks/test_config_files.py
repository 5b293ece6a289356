"""Check that the files of conf/callbacks and conf/logger build working objects."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import OmegaConf

from retention.callbacks import Memory, RetentionProfile, Slack, Throughput
from retention.experiment.hydra_setup import config_dir

_CONF = config_dir()


def build(group: str, name: str, run_dir: Path) -> Any:
    node = OmegaConf.load(_CONF / group / f"{name}.yaml")
    return instantiate(OmegaConf.create({"paths": {"run_dir": str(run_dir)}, group: node})[group])


def test_callbacks_and_csv_logger_fill_the_run_folder(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    callbacks = build("callbacks", "default", tmp_path)
    kinds = {type(callback) for callback in callbacks.values()}
    assert {Memory, Throughput, Slack, RetentionProfile} <= kinds
    options = {"enable_checkpointing": True, "enable_progress_bar": True, "max_epochs": 2, "log_every_n_steps": 1}
    trainer = trainer_with(*callbacks.values(), logger=build("logger", "csv", tmp_path), **options)
    trainer.fit(replay_module(), loader_of([batch_of([3])] * 5))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    with (tmp_path / "metrics.csv").open() as file:
        names = set(csv.DictReader(file).fieldnames or ())
    assert {"perf/peak_mib", "perf/tokens_per_s", "lr-SGD", "epoch", "step"} <= names


def test_tensorboard_writes_into_the_run_folder(tmp_path: Path) -> None:
    logger = build("logger", "tensorboard", tmp_path)
    assert isinstance(logger, pl.loggers.TensorBoardLogger)
    assert Path(logger.log_dir) == tmp_path / "tensorboard"


@pytest.mark.parametrize("key", ["offline", "mode"])
def test_wandb_needs_no_account(key: str) -> None:
    node = OmegaConf.load(_CONF / "logger" / "wandb.yaml")
    assert node[key] == {"offline": True, "mode": "offline"}[key]


def test_wandb_starts_offline(tmp_path: Path) -> None:
    logger = build("logger", "wandb", tmp_path)
    assert isinstance(logger, pl.loggers.WandbLogger)
    assert logger._wandb_init["mode"] == "offline"
    assert logger.save_dir == str(tmp_path)
