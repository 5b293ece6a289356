"""Run one experiment: check the configuration, build, train, test, and write a record."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from retention.callbacks import TrainingCost
from retention.errors import CheckpointError, ConfigError, Problem, first_line
from retention.experiment.assembly import build_module, resolve_tokenizer
from retention.experiment.checkpoint_files import AtomicCheckpointIO
from retention.experiment.checkpoints import load_weights, read_checkpoint
from retention.experiment.config import Compose, build_runs
from retention.experiment.finite import FiniteCheck
from retention.experiment.model_card import model_card
from retention.experiment.monitor import MonitorCheck
from retention.experiment.outputs import check_outputs, save_output
from retention.experiment.parts import Parts
from retention.experiment.results import evaluate, evaluates_validation, find_callback, record_of
from retention.experiment.resume import (
    CONFIG,
    check_ranks,
    check_strategy,
    checkpoint_path,
    finished_epochs,
    finished_record,
    has_record,
    keep_interrupted_checkpoint,
    put_record_aside,
    record_file,
    training_is_complete,
)
from retention.experiment.sharded_strategy import SHARDED, FullyShardedStrategy
from retention.experiment.stopping import StopSignals
from retention.experiment.training_state import check_training_state
from retention.models.saved import save_backbone
from retention.records import (
    Record,
    Validation,
    append_missing_record,
    append_record,
    write_atomic,
    write_record,
)
from retention.report.details import detail_table
from retention.report.quality_table import quality_table
from retention.report.token_heatmap import write_token_heatmap
from retention.tasks.trained_model import trained_class_of
from retention.training.distillation import BACKBONE
from retention.training.module import RetentionModule

log = logging.getLogger(__name__)

_HEATMAP = "kept_tokens.html"
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
    """Train (unless ``mode=test``) and score one model, and write its files into the run folder."""
    started = time.perf_counter()
    folder = Path(config.paths.run_dir)
    pl.seed_everything(config.seed, verbose=False)
    signals = StopSignals(checkpoint_path(folder))
    parts.callbacks.append(_training_cost(config))
    trainer = build_trainer(config, parts, signals)
    if trainer.is_global_zero:
        keep_interrupted_checkpoint(config)
        put_record_aside(folder, validation=config.mode == "fit" and config.ckpt is None)
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
                    module.model.head.write_files(folder / "encoder")
                trained = fit(config, parts, module, trainer)
                signals.check()
            result = evaluate(config, parts, module, trainer)
        status = "success"
    finally:
        for logger in parts.loggers:
            logger.finalize(status)
        _finish_wandb()
    result = replace(result, training={**trained, **result.training})
    record = record_of(result, config, time.perf_counter() - started, argv)
    if trainer.is_global_zero:
        if not evaluates_validation(config):
            _write_heatmap(parts, folder)
            write_atomic(folder / "README.md", model_card(record, trained_class_of(module.model.head).example))
        if config.output is not None:
            save_output(config.output, module.model, parts.data, record)
        write_record(record_file(config), record)  # last: an interrupted run has none
        if config.record is not None:
            append_record(config.record, record)
    return record


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
    if settings.get("strategy") == SHARDED:
        settings["strategy"] = FullyShardedStrategy()
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
        raise ConfigError([Problem("trainer", first_line(error))]) from error


def fit(config: DictConfig, parts: Parts, module: RetentionModule, trainer: pl.Trainer) -> dict[str, int]:
    """Train from the start, or resume the training of the checkpoint ``ckpt``.

    A training that is complete, but whose run was interrupted before its record was written, only gets its weights.

    Returns:
        Number of ``epochs`` and optimizer ``steps`` of the whole training.

    Raises:
        CheckpointError: the checkpoint is of a run that has finished, of another model or another number of processes,
            is damaged, or cannot be written.
    """
    if config.ckpt is not None:
        content = read_checkpoint(config.ckpt)
        check_training_state(content, config.ckpt)
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
            if (cost := find_callback(parts, TrainingCost)) is not None:
                cost.restore(content)
            return {"epochs": finished_epochs(content), "steps": int(content["global_step"])}
        check_strategy(content, str(config.trainer.strategy), config.ckpt)
        check_ranks(content, trainer.world_size, config.ckpt)
    trainer.fit(module, datamodule=parts.data, ckpt_path=config.ckpt, weights_only=True)
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step}


def _training_cost(config: DictConfig) -> TrainingCost:
    """Build the callback that counts the cost of a training, with the runs that it starts from and is taught by."""
    cost = TrainingCost()
    if config.mode == "fit":
        taught = config.distill.get("teacher") if config.distill.get("weight") else None
        taught = None if taught == BACKBONE else taught  # no run of ours
        for path in dict.fromkeys(str(each) for each in (config.init, taught) if each is not None):
            cost.add_earlier_run(read_checkpoint(path))
    return cost


def _earlier_record(config: DictConfig) -> Record | None:
    """Return the record of a run that is already finished; it is added to the file ``record`` if missing there."""
    record = finished_record(config)
    if record is not None and config.record is not None:
        _append_missing(config.record, record)
    return record


@rank_zero_only
def _write_table(records: Sequence[Record], folder: Path) -> None:
    if records[-1]["kind"] == Validation.kind:
        for record in records:
            score = record["metrics"][record["monitor"]]
            print(f"{record['policy']} {record['rho']:g}: {record['monitor']} {score:.4f} on validation rows")
        return
    table = "\n".join(part for part in (quality_table(records), detail_table(records)) if part)
    write_atomic(folder / "table.md", table)
    print(table.rstrip("\n"))
    if records[-1]["keep_ratio"]["by_layer"] and (page := folder / _HEATMAP).exists():
        print(f"\nTexts with the kept tokens shaded, to open in a browser: {page.resolve()}")


@rank_zero_only
def _append_missing(path: str, record: Record) -> None:
    append_missing_record(path, record)


def _write_heatmap(parts: Parts, folder: Path) -> None:
    if (folder / "retention_profile.json").exists() and parts.policy.layers:
        write_token_heatmap(folder / "retention_profile.json", folder / _HEATMAP)


def _finish_wandb() -> None:
    if "wandb" in sys.modules:  # otherwise the next run of a sweep would write into this one
        sys.modules["wandb"].finish()


def _quiet() -> None:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
