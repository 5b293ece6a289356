"""Run one experiment: check the configuration, build, train, test, and write a record."""

from __future__ import annotations

import hashlib
import logging
import math
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
from retention.engine import encoder_of
from retention.errors import CheckpointError, ConfigError, Problem, TrainingError, require
from retention.experiment.checkpoint_files import AtomicCheckpointIO
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.config import Compose, build_runs, loaded_config
from retention.experiment.finite import FiniteCheck
from retention.experiment.model_card import model_card
from retention.experiment.monitor import MonitorCheck
from retention.experiment.outputs import check_outputs
from retention.experiment.parts import Parts, build_parts
from retention.experiment.resume import (
    CONFIG,
    RECORD,
    checkpoint_path,
    finished_epochs,
    finished_record,
    has_record,
    keep_interrupted_checkpoint,
    put_record_aside,
    training_is_complete,
)
from retention.experiment.stopping import StopSignals
from retention.experiment.stored import StoredTargets, storable_config
from retention.models.retention_model import RetentionModel
from retention.models.saved import save_backbone
from retention.policies.bases.retention_policy import RetentionPolicy
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
from retention.report.token_heatmap import write_token_heatmap
from retention.tasks.trained_model import trained_class_of
from retention.training.module import RetentionModule
from retention.training.teacher import Teacher

log = logging.getLogger(__name__)

_IGNORED_WARNINGS = (  # of Lightning; expected here, since the run folder exists from the start
    "does not have many workers",
    "Checkpoint directory.*exists and is not empty",
    "Experiment logs directory.*exists and is not empty",
    "isinstance.treespec, LeafSpec.. is deprecated",
)


def run(
    config: DictConfig, overrides: Sequence[str], compose: Compose, argv: Sequence[str] | None = None
) -> list[Record]:
    """Run the configured experiment, after the baselines named in ``compare``; finished runs are not repeated.

    Args:
        config: the composed configuration.
        overrides: what was typed, ``key=value``; with ``mode=test`` it changes the checkpoint's configuration.
        compose: composes a configuration from such a list, for the baselines.
        argv: script and arguments that repeat this run, for its record; None = those of this process.

    Returns:
        The result records, baselines first.

    Raises:
        ConfigError: all problems of the configuration, before data or weights are loaded.
        DataError: the data cannot be used.
        CheckpointError: a checkpoint cannot be used.
        TrainingError: the training diverged.
    """
    _quiet()
    runs = build_runs(config, compose, overrides)
    check_outputs([each for each, _ in runs])
    records = [_earlier_record(each) or run_one(each, parts, argv) for each, parts in runs]
    _write_table(records, Path(config.paths.run_dir))
    return records


def run_one(config: DictConfig, parts: Parts, argv: Sequence[str] | None = None) -> Record:
    """Train (unless ``mode=test``) and test one model, and write its files into the run folder."""
    started = time.perf_counter()
    folder = Path(config.paths.run_dir)
    pl.seed_everything(config.seed, verbose=False)
    signals = StopSignals(checkpoint_path(folder))
    trainer = build_trainer(config, parts, signals)
    if trainer.is_global_zero:
        keep_interrupted_checkpoint(config)
        put_record_aside(folder)
        write_atomic(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))

    tokenizer = resolve_tokenizer(parts)
    parts.data.attach(tokenizer)
    parts.data.setup("test" if config.mode == "test" else "fit")
    module = build_module(config, parts, len(tokenizer))
    status, trained = "failed", {}
    try:
        with signals.listening():
            if config.mode == "test":
                load_weights(module.model, read_checkpoint(config.ckpt), config.ckpt, policy=True, other_budget=True)
            else:
                if trainer.is_global_zero:
                    save_backbone(folder / "encoder", module.encoder, tokenizer)
                trained = fit(config, parts, module, trainer)
                signals.check()
            [metrics] = trainer.test(module, datamodule=parts.data, verbose=False)
        status = "success"
    finally:
        for logger in parts.loggers:
            logger.finalize(status)
        _finish_wandb()
    record = _record(config, parts, dict(metrics), trained, time.perf_counter() - started, argv)
    if trainer.is_global_zero:
        _write_heatmap(parts, folder)
        write_atomic(folder / "README.md", model_card(record, trained_class_of(module.model.head).example))
        write_record(folder / RECORD, record)  # last: an interrupted run has none
        if config.record is not None:
            append_record(config.record, record)
    return record


def resolve_tokenizer(parts: Parts) -> Any:
    """Return the backbone's tokenizer, or the task's if the backbone has none.

    Raises:
        ConfigError: neither has one.
    """
    tokenizer = parts.backbone.tokenizer() or parts.data.build_tokenizer()
    message = f"{parts.backbone.name} is trained from scratch and has no tokenizer; this task needs a pretrained one"
    require(tokenizer is not None, "backbone", message)
    return tokenizer


def build_module(config: DictConfig, parts: Parts, vocab_size: int) -> RetentionModule:
    """Build the LightningModule with its starting weights and its teacher."""
    plain = storable_config(config)
    if "label_names" in plain["task"]["data"]:  # those in use, which a file of the data may have given
        plain["task"]["data"]["label_names"] = [str(name) for name in getattr(parts.data, "label_names", ())]

    model = build_model(config, parts, parts.policy, vocab_size)
    module = RetentionModule(model, parts.training, plain)
    if config.init is not None and config.mode == "fit":
        layers = parts.backbone.layer_indices  # a shallower student starts from these layers of a deeper model
        load_weights(model, read_checkpoint(config.init), config.init, policy=False, layers=layers)
    if parts.training.distill.active and config.mode == "fit":
        module.set_teacher(_build_teacher(config, parts, vocab_size), parts.backbone.layer_indices)
    return module


def build_model(config: DictConfig, parts: Parts, policy: RetentionPolicy, vocab_size: int) -> RetentionModel:
    """Build encoder and head around a policy, with the starting weights of the backbone."""
    load = parts.backbone.encoder_decoder if parts.writes else parts.backbone.encoder
    loaded = load(vocab_size)
    encoder = encoder_of(loaded)  # before the head takes the decoder
    head = parts.head_type(encoder=loaded, **parts.data.head())
    return RetentionModel(
        encoder,
        policy,
        head,
        dropped=str(config.dropped),
        prune_at=str(config.prune_at),
        reference_shape=parts.backbone.full_shape(),
    )


def _build_teacher(config: DictConfig, parts: Parts, vocab_size: int) -> Teacher:
    """Load the dense teacher of distillation from its checkpoint; it may have more layers than the student."""
    path = cast(str, parts.training.distill.teacher)  # Distillation refuses to be active without one
    content = read_checkpoint(path)
    teacher_config = loaded_config(content, Path(path))
    teacher_config.retention = {"_target_": "retention.policies.dense.Dense", "rho": 1.0}
    teacher_parts = build_parts(teacher_config, StoredTargets())
    teacher_parts.data = parts.data  # the student's rows and number of classes
    model = build_model(teacher_config, teacher_parts, teacher_parts.policy, vocab_size)
    load_weights(model, content, path, policy=False)
    # its outputs depend on its weights, on the settings of its head, and on the rows
    weights = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    head = OmegaConf.to_container(teacher_config.task.head, resolve=True)
    origin = [weights, str(head), parts.data.fingerprint("train")]
    key = hashlib.sha256("/".join(origin).encode()).hexdigest()[:16]
    return Teacher(model, cache_folder() / f"{parts.data.name}-teacher-{key}.pt")


def build_trainer(config: DictConfig, parts: Parts, signals: StopSignals | None = None) -> pl.Trainer:
    """Build the Lightning trainer of a run.

    Args:
        config: the composed configuration.
        parts: of ``build_parts``.
        signals: stops the trainer when the process gets a signal; None = Lightning's own handling.

    Raises:
        ConfigError: Lightning refuses its settings.
    """
    settings = cast("dict[str, Any]", OmegaConf.to_container(config.trainer, resolve=True))
    plugins = settings.pop("plugins", None) or []
    stop = [] if signals is None else [signals]
    try:
        return pl.Trainer(
            **settings,
            plugins=[*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()],
            default_root_dir=str(config.paths.run_dir),
            callbacks=[*parts.callbacks, FiniteCheck(), MonitorCheck(str(config.task.monitor)), *stop],
            logger=parts.loggers,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError([Problem("trainer", str(error).strip().splitlines()[0])]) from error


def fit(config: DictConfig, parts: Parts, module: RetentionModule, trainer: pl.Trainer) -> dict[str, int]:
    """Train from the start, or resume the training of the checkpoint ``ckpt``.

    A training that is complete, but whose run was interrupted before its record was written, only gets its weights.

    Returns:
        Number of ``epochs`` and optimizer ``steps`` of the whole training.

    Raises:
        CheckpointError: the checkpoint is of a run that has finished, or of another model, or cannot be written.
    """
    if config.ckpt is not None:
        content = read_checkpoint(config.ckpt)
        load_weights(module.model, content, config.ckpt, policy=True)
        if training_is_complete(content, trainer.max_epochs, trainer.max_steps):
            if has_record(config.ckpt):
                raise CheckpointError(
                    f"{config.ckpt}: has already finished {trainer.max_epochs} epochs; raise trainer.max_epochs"
                )
            log.warning("%s: the training is complete, only its test is missing", config.ckpt)
            local = checkpoint_path(config.paths.run_dir)
            if trainer.is_global_zero and Path(config.ckpt).resolve() != local.resolve():
                AtomicCheckpointIO().save_checkpoint(content, local)
            return {"epochs": finished_epochs(content), "steps": int(content["global_step"])}
    trainer.fit(module, datamodule=parts.data, ckpt_path=config.ckpt, weights_only=True)
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step}


def _record(
    config: DictConfig,
    parts: Parts,
    metrics: dict[str, float],
    trained: dict[str, int],
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
    flops_ratio, monitor = scores.pop("flops_ratio"), str(config.task.monitor)
    if not math.isfinite(scores.get(monitor, 0.0)):
        raise TrainingError(f"test/{monitor} is {scores[monitor]}: the model's outputs are not usable")
    result = Quality(
        task=str(config.task.name),
        data=parts.data.describe(),
        policy=parts.method,
        backbone=parts.backbone.name,
        rho=parts.policy.rho,
        keep_ratio=kept,
        flops_ratio=flops_ratio,
        metrics=scores,
        monitor=monitor,
        throughput_tokens_per_s=speed.get("test_tokens_per_s"),
        peak_mib=cast("float | None", peak.get("test_peak_mib")),
        memory_kind=cast("str | None", peak.get("memory_kind")),
        training={
            **trained,
            "speed": speed,
            "memory": peak,
            "slack": slack.summary() if isinstance(slack, Slack) else {},
        },
    )
    plain = OmegaConf.to_container(config, resolve=True)
    return build_record(result, config=plain, seed=int(config.seed), wall_s=wall_s, argv=argv)  # type: ignore[arg-type]


def _earlier_record(config: DictConfig) -> Record | None:
    """Return the record of a run that is already finished; it is added to the file ``record`` if missing there."""
    record = finished_record(config)
    if record is not None and config.record is not None:
        _append_missing(config.record, record)
    return record


@rank_zero_only
def _write_table(records: Sequence[Record], folder: Path) -> None:
    table = "\n".join(part for part in (quality_table(records), detail_table(records)) if part)
    write_atomic(folder / "table.md", table)
    print(table)


@rank_zero_only
def _append_missing(path: str, record: Record) -> None:
    append_missing_record(path, record)


def _write_heatmap(parts: Parts, folder: Path) -> None:
    if (folder / "retention_profile.json").exists() and parts.policy.layers:
        write_token_heatmap(folder / "retention_profile.json", folder / "kept_tokens.html")


def _finish_wandb() -> None:
    if "wandb" in sys.modules:  # otherwise the next run of a sweep would write into this one
        sys.modules["wandb"].finish()


def _quiet() -> None:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
