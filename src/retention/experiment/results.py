"""Evaluate the trained model of a run, and build its result record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from retention.callbacks import Memory, RetentionProfile, Slack, Throughput, TrainingCost
from retention.errors import TrainingError
from retention.experiment.parts import Parts
from retention.experiment.steps import find_callback
from retention.records import Quality, Record, Validation, build_record
from retention.records.schema import Result
from retention.report.decoding_table import main_value
from retention.report.group_scores import group_scores
from retention.training.module import RetentionModule

EVALUATE = ("test", "validation")


def evaluates_validation(config: Mapping[str, Any] | DictConfig) -> bool:
    """Return True if a run is scored on its validation rows instead of its test rows."""
    return bool(config.get("evaluate", "test") == "validation")


def evaluate(config: DictConfig, parts: Parts, module: RetentionModule, trainer: pl.Trainer) -> Quality:
    """Score the model on the test rows, or on the validation rows with ``evaluate=validation``.

    Returns:
        The result; ``training`` has the summaries of the callbacks.

    Raises:
        TrainingError: the main metric is not finite.
    """
    validation = evaluates_validation(config)
    run, stage = (trainer.validate, "val") if validation else (trainer.test, "test")
    [metrics] = run(module, datamodule=parts.data, verbose=False)
    scores = {name.removeprefix(f"{stage}/"): value for name, value in metrics.items() if name.startswith(f"{stage}/")}
    flops_ratio, monitor = scores.pop("flops_ratio"), str(config.task.monitor)
    if not math.isfinite(scores.get(monitor, 0.0)):
        raise TrainingError(f"{stage}/{monitor} is {scores[monitor]}: the model's outputs are not usable")
    profile, memory = find_callback(parts, RetentionProfile), find_callback(parts, Memory)
    throughput, slack = find_callback(parts, Throughput), find_callback(parts, Slack)
    cost = find_callback(parts, TrainingCost)
    speed = throughput.summary() if throughput else {}
    peak = memory.summary() if memory else {}
    return (Validation if validation else Quality)(
        task=str(config.task.name),
        data=parts.data.describe(),
        policy=parts.method,
        backbone=parts.backbone.name,
        rho=parts.policy.rho,
        keep_ratio=profile.summary() if profile else {"mean": None, "by_layer": {}},
        flops_ratio=flops_ratio,
        metrics=scores,
        monitor=monitor,
        throughput_tokens_per_s=speed.get("test_tokens_per_s"),
        peak_mib=cast("float | None", peak.get("test_peak_mib")),
        memory_kind=cast("str | None", peak.get("memory_kind")),
        training={"speed": speed, "memory": peak, "slack": slack.summary() if slack else {}},
        groups={} if validation else group_scores(module.last_prediction_rows, parts.data.row_groups("test")),
        training_cost=cost.summary() if cost else {},
    )


def record_of(result: Result, config: DictConfig, wall_s: float, argv: Sequence[str] | None) -> Record:
    """Build the record of a result.

    Args:
        result: of ``evaluate``.
        config: the composed configuration.
        wall_s: duration of the whole run in seconds.
        argv: script and arguments that repeat the run; None = those of this process.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    return build_record(result, config=plain, seed=int(config.seed), wall_s=wall_s, argv=argv)  # type: ignore[arg-type]


def main_metric(record: Record) -> float:
    """Return the main metric of a run from its record."""
    if "monitor" in record:
        return float(record["metrics"][record["monitor"]])
    value = main_value(record)
    assert value is not None
    return value
