"""One run: check the configuration, build, train, test, and leave a record."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from retention.callbacks import Memory, RetentionProfile, Slack, Throughput
from retention.data.encoded_split import cache_folder
from retention.errors import CheckpointError, ConfigError, Problem
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.config import Compose, Parts, build_parts, check_run, prepare, tested_config
from retention.experiment.resume import CONFIG, RECORD, finished_record, put_record_aside
from retention.models.saved import save_backbone
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.policies.dense import Dense
from retention.records import (
    Quality,
    Record,
    append_missing_record,
    append_record,
    build_record,
    write_atomic,
    write_record,
)
from retention.report.details import detail_table
from retention.report.quality_table import quality_table
from retention.report.token_heatmap import write_picture
from retention.training.module import RetentionModule
from retention.training.teacher import Teacher

log = logging.getLogger(__name__)

_EXPECTED = (  # warnings of Lightning that tell a user nothing: a run's folder holds its configuration from the start
    "does not have many workers",
    "Checkpoint directory.*exists and is not empty",
    "Experiment logs directory.*exists and is not empty",
    "isinstance.treespec, LeafSpec.. is deprecated",
)


def run(
    config: DictConfig, overrides: Sequence[str], compose: Compose, argv: Sequence[str] | None = None
) -> list[Record]:
    """Carry out the configured run, and the rivals named in ``compare`` before it, unless they are already finished.

    Args:
        config: the composed configuration.
        overrides: what was typed, ``key=value``; with ``mode=test`` they change the checkpoint's configuration.
        compose: makes a configuration from such a list, for the rivals.
        argv: script and arguments that repeat this run, for its record; None = those of this process.

    Returns:
        The result records, rivals first.

    Raises:
        ConfigError: everything wrong with the configuration, before data or weights are loaded.
        DataError: data that cannot be used.
        CheckpointError: a checkpoint that cannot be used.
    """
    _quiet()
    if config.mode == "test":
        check_run(config)
        tested = tested_config(config, overrides)
        prepared = [(tested, build_parts(tested))]
    else:
        prepared = prepare(config, compose)
    records = [_earlier_record(each) or run_one(each, parts, argv) for each, parts in prepared]
    _leave_table(records, Path(config.paths.run_dir))
    return records


def run_one(config: DictConfig, parts: Parts, argv: Sequence[str] | None = None) -> Record:
    """Train (unless ``mode=test``) and test one model."""
    started = time.perf_counter()
    folder = Path(config.paths.run_dir)
    pl.seed_everything(config.seed, verbose=False)
    trainer = build_trainer(config, parts)
    if trainer.is_global_zero:
        put_record_aside(folder)
        write_atomic(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))

    tokenizer = resolve_tokenizer(parts)
    parts.data.attach(tokenizer)
    parts.data.setup("test" if config.mode == "test" else "fit")
    module = build_module(config, parts, len(tokenizer))
    try:
        if config.mode == "test":
            load_weights(module, read_checkpoint(config.ckpt), config.ckpt, policy=True, other_budget=True)
        else:
            if trainer.is_global_zero:
                save_backbone(folder / "encoder", module.encoder, tokenizer)
            fit(config, parts, module, trainer)
        [metrics] = trainer.test(module, datamodule=parts.data, verbose=False)
    finally:
        for logger in parts.loggers:
            logger.finalize("success")
        _finish_wandb()
    record = _record(config, parts, module, dict(metrics), time.perf_counter() - started, argv)
    if trainer.is_global_zero:
        _draw(parts, folder)
        write_record(folder / RECORD, record)  # last in the folder: a run that was cut off has none
        if config.record is not None:
            append_record(config.record, record)
    return record


def _earlier_record(config: DictConfig) -> Record | None:
    """The record of this run if it is already finished; it is then in the file of records too."""
    record = finished_record(config)
    if record is not None and config.record is not None:
        _append_missing(config.record, record)
    return record


def resolve_tokenizer(parts: Parts) -> Any:
    """The backbone's tokenizer, or the task's own where the backbone has none.

    Raises:
        ConfigError: neither has one.
    """
    tokenizer = parts.backbone.tokenizer() or parts.data.build_tokenizer()
    if tokenizer is None:
        message = (
            f"{parts.backbone.name} is trained from scratch and has no tokenizer; this task needs a pretrained one"
        )
        raise ConfigError([Problem("backbone", message)])
    return tokenizer


def build_module(config: DictConfig, parts: Parts, vocab_size: int) -> RetentionModule:
    """The LightningModule with its starting weights and its teacher."""
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    if "label_names" in plain["task"]["data"]:  # those in use, which a file of the data may have given
        plain["task"]["data"]["label_names"] = [str(name) for name in getattr(parts.data, "label_names", ())]
    shared = {
        "training": parts.training,
        "dropped": str(config.dropped),
        "prune_at": str(config.prune_at),
        "config": plain,
    }

    def make(policy: RetentionPolicy) -> RetentionModule:
        load = parts.backbone.encoder_decoder if parts.writes else parts.backbone.encoder
        encoder = load(vocab_size)
        module: RetentionModule = parts.module_type(encoder=encoder, policy=policy, **parts.data.head(), **shared)
        return module

    module = make(parts.policy)
    if config.init is not None and config.mode == "fit":
        load_weights(module, read_checkpoint(config.init), config.init, policy=False)
    if parts.training.distill.active and config.mode == "fit":
        module.set_teacher(_teacher(make, parts, head=str(config.task.head)))
    return module


def _teacher(make: Any, parts: Parts, head: str) -> Teacher:
    path = cast(str, parts.training.distill.teacher)  # Distillation refuses to be active without one
    policy = Dense()
    policy.build(parts.backbone.shape(), parts.backbone.name)
    module: RetentionModule = make(policy)
    load_weights(module, read_checkpoint(path), path, policy=False)
    # its answers hang on its weights, on what its head does with them, and on the rows
    made_by = [hashlib.sha256(Path(path).read_bytes()).hexdigest(), head, parts.data.fingerprint("train")]
    key = hashlib.sha256("/".join(made_by).encode()).hexdigest()[:16]
    return Teacher(module, cache_folder() / f"{parts.data.name}-teacher-{key}.pt")


def build_trainer(config: DictConfig, parts: Parts) -> pl.Trainer:
    """The Lightning trainer of this run.

    Raises:
        ConfigError: Lightning refuses its settings.
    """
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    try:
        return pl.Trainer(
            **settings,  # type: ignore[arg-type]
            default_root_dir=str(config.paths.run_dir),
            callbacks=parts.callbacks,
            logger=parts.loggers,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError([Problem("trainer", str(error).strip().splitlines()[0])]) from error


def fit(config: DictConfig, parts: Parts, module: RetentionModule, trainer: pl.Trainer) -> None:
    """Train, from the start or from where ``ckpt`` left off."""
    if config.ckpt is not None:
        content = read_checkpoint(config.ckpt)
        load_weights(module, content, config.ckpt, policy=True)
        if content.get("epoch", 0) >= (trainer.max_epochs or 0):
            raise CheckpointError(
                f"{config.ckpt}: has already finished {content['epoch']} epochs; raise trainer.max_epochs"
            )
    trainer.fit(module, datamodule=parts.data, ckpt_path=config.ckpt, weights_only=True)


def _record(
    config: DictConfig,
    parts: Parts,
    module: RetentionModule,
    metrics: dict[str, float],
    wall_s: float,
    argv: Sequence[str] | None,
) -> Record:
    by_type = {type(callback): callback for callback in parts.callbacks}
    profile, memory = by_type.get(RetentionProfile), by_type.get(Memory)
    throughput, slack = by_type.get(Throughput), by_type.get(Slack)
    speed = throughput.summary() if isinstance(throughput, Throughput) else {}
    peak = memory.summary() if isinstance(memory, Memory) else {}
    kept = profile.summary() if isinstance(profile, RetentionProfile) else {"mean": None, "by_layer": {}}
    scores = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    share = scores.pop("flops_ratio")
    result = Quality(
        task=str(config.task.name),
        data=parts.data.describe(),
        policy=parts.policy.name,
        backbone=parts.backbone.name,
        rho=parts.policy.rho,
        keep_ratio=kept,
        flops_ratio=share,
        metrics=scores,
        monitor=str(config.task.monitor),
        throughput_tokens_per_s=speed.get("test_tokens_per_s"),
        peak_mib=cast("float | None", peak.get("test_peak_mib")),
        memory_kind=cast("str | None", peak.get("memory_kind")),
    )
    plain = OmegaConf.to_container(config, resolve=True)
    record = build_record(result, config=plain, seed=int(config.seed), wall_s=wall_s, argv=argv)  # type: ignore[arg-type]
    record["training"] = {"speed": speed, "memory": peak, "slack": slack.summary() if isinstance(slack, Slack) else {}}
    return record


@rank_zero_only
def _leave_table(records: Sequence[Record], folder: Path) -> None:
    table = "\n".join(part for part in (quality_table(records), detail_table(records)) if part)
    write_atomic(folder / "table.md", table)
    print(table)


@rank_zero_only
def _append_missing(path: str, record: Record) -> None:
    append_missing_record(path, record)


def _draw(parts: Parts, folder: Path) -> None:
    if (folder / "retention_profile.json").exists() and parts.policy.layers:
        write_picture(folder / "retention_profile.json", folder / "kept_tokens.html")


def _finish_wandb() -> None:
    if "wandb" in sys.modules:  # otherwise the next run of a sweep would write into this one
        sys.modules["wandb"].finish()


def _quiet() -> None:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for expected in _EXPECTED:
        warnings.filterwarnings("ignore", message=f".*{expected}.*")
