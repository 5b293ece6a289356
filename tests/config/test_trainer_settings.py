"""Test the checks of the trainer's settings and of the keys around them, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning.callbacks import LearningRateMonitor

from retention.errors import ConfigError
from retention.experiment.entry import check_overrides
from retention.experiment.parts import build_parts
from retention.experiment.trainer_settings import check_trainer

Start = Callable[..., Any]
VALID = {"max_epochs": 2, "gradient_clip_val": 1.0, "accumulate_grad_batches": 1, "log_every_n_steps": 20}


def keys_of(check: Callable[[], Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check()
    return [problem.key for problem in caught.value.problems]


@pytest.mark.parametrize(
    "change",
    [
        {"max_epochs": -1},
        {"max_epochs": 0},
        {"max_epochs": 1.5},
        {"max_epochs": True},
        {"max_epochs": "abc"},
        {"max_epochs": 10**22},
        {"max_epochs": None},
        {"max_steps": 0},
        {"accumulate_grad_batches": 0},
        {"accumulate_grad_batches": 0.37},
        {"accumulate_grad_batches": None},
        {"gradient_clip_val": -1},
        {"gradient_clip_val": 0.0},
        {"gradient_clip_val": float("inf")},
        {"gradient_clip_val": float("nan")},
        {"log_every_n_steps": "abc"},
        {"log_every_n_steps": -1},
        {"fast_dev_run": True},
        {"limit_train_batches": 1},
        {"limit_test_batches": 0.5},
        {"limit_val_batches": 0},
        {"overfit_batches": 1},
        {"logger": False},
        {"enable_checkpointing": False},
        {"max_epoch": 3},
        {"strategy": "ddp_spawn"},
        {"strategy": "fsdp_cpu_offload"},
    ],
)
def test_invalid_trainer_setting_is_named(change: dict[str, Any]) -> None:
    assert keys_of(lambda: check_trainer(VALID | change)) == list(change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_steps": 5},
        {"max_epochs": -1, "max_steps": 5},
        {"max_epochs": -1, "max_time": "00:00:05:00"},
        {"gradient_clip_val": None},
        {"limit_test_batches": 1.0, "limit_train_batches": None, "fast_dev_run": False, "overfit_batches": 0.0},
        {"precision": "bf16-mixed", "devices": 2, "strategy": "ddp"},
        {"strategy": "fsdp"},
        {"strategy": "ddp_find_unused_parameters_true"},
    ],
)
def test_valid_trainer_settings_are_accepted(change: dict[str, Any]) -> None:
    check_trainer(VALID | change)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("+data.train_sise=4", "data.train_sise"),
        ("+task.epoch=9", "task.epoch"),
        ("+paths.run_dri=/x", "paths.run_dri"),
        ("~seed", "seed"),
        ("~mode", "mode"),
        ("~task.epochs", "task.epochs"),
        ("~task.head", "task.head"),
        ("ckpt=5", "ckpt"),
        ("record=5", "record"),
        ("record=''", "record"),
        ("init=[]", "init"),
        ("compare=[1,2]", "compare"),
        ("task.monitor=nope", "task.monitor"),
        ("task.head._target_=builtins.str", "task.head._target_"),
        ("retention._target_=builtins.dict", "retention._target_"),
        ("retention.dual=5", "retention.dual"),
        ("optimizer._target_=builtins.dict", "optimizer._target_"),
        ("callbacks.memory._target_=builtins.dict", "callbacks.memory._target_"),
        ("callbacks.memory=5", "callbacks.memory"),
        ("callbacks.checkpoint.every_n_minutes=0", "callbacks.checkpoint.every_n_minutes"),
        ("callbacks.checkpoint.save_top_k=3", "callbacks.checkpoint"),
        ("+callbacks.checkpoint.save_last=false", "callbacks.checkpoint.save_last"),
        ("optimizer.lr=.inf", "optimizer.lr"),
        ("optimizer.weight_decay=.nan", "optimizer.weight_decay"),
        ("retention.keep_bias=.nan", "retention.keep_bias"),
        ("task.data.num_workers=10000000", "task.data.num_workers"),
        ("data.train_size=10000000000000000000000", "task.data.train_size"),
        ("budgets.sampled=1000000", "budgets.sampled"),
    ],
)
def test_invalid_key_or_value_is_named(typed: str, key: str, start: Start) -> None:
    assert key in keys_of(lambda: start(typed))


def test_declared_metrics_are_those_of_the_head() -> None:
    from retention.tasks.classification.head import ClassificationHead
    from retention.tasks.classification.metrics import Accuracy, LabelSetF1, MacroF1
    from retention.tasks.classification.multilabel_head import MultiLabelHead

    one = [metric.compute(predictions=[0, 1], references=[0, 1]) for metric in (Accuracy(), MacroF1())]
    assert tuple(name for part in one for name in part) == ClassificationHead.metric_names
    several = LabelSetF1().compute(predictions=[[0], [1]], references=[[0], [1]])
    assert tuple(several) == MultiLabelHead.metric_names


@pytest.mark.parametrize("typed", ["logger=null", "~logger", "logger=false"])
def test_run_without_a_logger_has_one_supported_way(typed: str) -> None:
    with pytest.raises(ConfigError, match="use logger=none"):
        check_overrides(["task=sst2", typed])


def test_run_without_a_logger_builds(composed: Callable[..., Any]) -> None:
    parts = build_parts(composed("logger=none"))
    assert parts.loggers == []
    assert not any(isinstance(each, LearningRateMonitor) for each in parts.callbacks)
    assert any(isinstance(each, LearningRateMonitor) for each in build_parts(composed()).callbacks)
