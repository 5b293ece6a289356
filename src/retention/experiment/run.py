"""Run one experiment: check the configuration, build, train, test, and write a record."""

from __future__ import annotations

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

from retention.errors import CheckpointError, ConfigError, Problem, first_line
from retention.experiment.checkpoint_files import AtomicCheckpointIO
from retention.experiment.checkpoints import read_checkpoint
from retention.experiment.config import Compose, build_runs
from retention.experiment.data_files import write_data_files
from retention.experiment.decoders import DecoderParts, DecoderSteps
from retention.experiment.encoders import HEATMAP, EncoderSteps
from retention.experiment.finite import FiniteCheck
from retention.experiment.metrics_file import keep_logged_rows
from retention.experiment.monitor import MonitorCheck
from retention.experiment.outputs import check_outputs
from retention.experiment.parts import Parts
from retention.experiment.results import record_of
from retention.experiment.resume import (
    check_job_folder,
    check_ranks,
    check_resumed_training,
    check_strategy,
    checkpoint_path,
    finished_epochs,
    finished_record,
    has_record,
    keep_interrupted_checkpoint,
    override_of,
    put_record_aside,
    record_file,
    trained_checkpoint,
    training_is_complete,
)
from retention.experiment.run_config import CONFIG
from retention.experiment.sharded_strategy import SHARDED, FullyShardedStrategy
from retention.experiment.steps import RunParts, RunSteps
from retention.experiment.stopping import StopSignals
from retention.experiment.training_state import check_training_state
from retention.records import (
    Decoding,
    Record,
    Validation,
    append_missing_record,
    append_record,
    write_atomic,
    write_record,
    write_records,
)
from retention.records.run_folders import RESULTS, run_records
from retention.report.decoding_table import decoding_table
from retention.report.details import detail_table
from retention.report.grouping import as_test_rows
from retention.report.quality_table import quality_table

log = logging.getLogger(__name__)

_IGNORED_WARNINGS = (  # of Lightning; expected here, since the run folder exists from the start
    "does not have many workers",
    "Checkpoint directory.*exists and is not empty",
    "Experiment logs directory.*exists and is not empty",
    "isinstance.treespec, LeafSpec.. is deprecated",
)


def run(
    config: DictConfig,
    overrides: Sequence[str],
    compose: Compose,
    argv: Sequence[str] | None = None,
    *,
    sweep: bool = False,
) -> list[Record]:
    """Run the configured experiment, after the baselines named in ``compare``; finished runs are not repeated.

    Args:
        config: the composed configuration.
        overrides: what was typed, ``key=value``; with ``mode=test`` it changes the checkpoint's configuration.
        compose: composes a configuration from such a list, for the baselines.
        argv: script and arguments that repeat this run, for its record; None = those of this process.
        sweep: True for a job of a sweep, which may not replace a finished run with other input files.

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
    check_outputs(runs)
    if sweep:
        for each, parts in runs:
            check_job_folder(each, parts.data_files(), overrides)
    records = [record for each, parts in runs for record in _earlier_records(each, parts) or run_one(each, parts, argv)]
    _write_table(records, Path(config.paths.run_dir))
    return records


def run_one(config: DictConfig, parts: Parts | DecoderParts, argv: Sequence[str] | None = None) -> list[Record]:
    """Train (unless ``mode=test``) and score one model, and write its files into the run folder.

    A finished run of which only ``evaluate`` differs is not trained again.

    Returns:
        Its result records; the main one is the last.

    Raises:
        ConfigError: a training is resumed with other settings or data than it was started with.
    """
    started = time.perf_counter()
    folder = Path(config.paths.run_dir)
    data_files = parts.data_files()
    trained_before = trained_checkpoint(config, data_files)
    if trained_before is not None:
        config.ckpt = str(trained_before)
    elif config.mode == "fit" and config.ckpt is not None:
        check_resumed_training(config, data_files)  # before the files of the interrupted training are replaced
    pl.seed_everything(config.seed, verbose=False)
    signals = StopSignals(checkpoint_path(folder))
    steps = DecoderSteps(config, parts) if isinstance(parts, DecoderParts) else EncoderSteps(config, parts)
    trainer = build_trainer(config, parts, signals)
    steps.build()  # data and weights that cannot be used leave an earlier run in the folder as it is
    if trainer.is_global_zero:
        if trained_before is None:
            keep_interrupted_checkpoint(config)
            put_record_aside(folder, validation=config.mode == "fit")
        write_atomic(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))
        write_data_files(folder, data_files)
    status, trained = "failed", {}
    try:
        with signals.listening():
            if config.mode == "test":
                steps.load(read_checkpoint(config.ckpt), tested=True)
            elif steps.trains:
                if trainer.is_global_zero:
                    steps.write_start(folder)
                trained = fit(config, steps, trainer, scored_only=trained_before is not None)
                signals.check()
            results = steps.evaluate(trainer, trained)
        status = "success"
    finally:
        for logger in parts.loggers:
            logger.finalize(status)
        _finish_wandb()
    wall_s = time.perf_counter() - started
    records = [record_of(result, config, wall_s, argv) for result in results]
    if trainer.is_global_zero:
        steps.write_results(folder, records)
        if len(records) > 1:
            write_records(folder / RESULTS, records)
        else:
            (folder / RESULTS).unlink(missing_ok=True)  # of an earlier run in this folder
        write_record(record_file(config), records[-1])  # last: an interrupted run has none
        if config.record is not None:
            for record in records:
                append_record(config.record, record)
    return records


def build_trainer(config: DictConfig, parts: RunParts, signals: StopSignals | None = None) -> pl.Trainer:
    """Build the Lightning trainer of a run.

    Args:
        config: the composed configuration.
        parts: callbacks and loggers of the run.
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


def fit(config: DictConfig, steps: RunSteps, trainer: pl.Trainer, *, scored_only: bool = False) -> dict[str, int]:
    """Train from the start, or resume the training of the checkpoint ``ckpt``.

    A training that is complete, but whose run was interrupted before its record was written, only gets its weights.

    Args:
        config: the composed configuration.
        steps: of the run.
        trainer: of the run.
        scored_only: True if ``ckpt`` is that of a finished run, which is scored on other rows.

    Returns:
        Number of ``epochs`` and optimizer ``steps`` of the whole training.

    Raises:
        CheckpointError: the checkpoint is of a run that has finished, of another model or another number of processes,
            is damaged, or cannot be written.
    """
    if config.ckpt is not None:
        content = read_checkpoint(config.ckpt)
        check_training_state(content, config.ckpt)
        steps.load(content, tested=False)
        local = checkpoint_path(config.paths.run_dir)
        continues = trainer.is_global_zero and Path(config.ckpt).resolve().parent == local.resolve().parent
        if scored_only or training_is_complete(content, trainer.max_epochs, trainer.max_steps):
            if not scored_only and has_record(config.ckpt):
                ended_by_itself = f"start a new training from its model with {override_of('init', Path(config.ckpt))}"
                remedy = ended_by_itself if content.get("finished") else "raise trainer.max_epochs"
                raise CheckpointError(
                    f"{config.ckpt}: has already finished {finished_epochs(content)} epochs; {remedy}"
                )
            if not scored_only:
                log.warning("%s: the training is complete, only its test is missing", config.ckpt)
            if trainer.is_global_zero and Path(config.ckpt).resolve() != local.resolve():
                AtomicCheckpointIO().save_checkpoint(content, local)
            if continues:
                keep_logged_rows(trainer.loggers, content, complete=True)
            steps.restore(content)
            return {"epochs": finished_epochs(content), "steps": int(content["global_step"])}
        check_strategy(content, str(config.trainer.strategy), config.ckpt)
        check_ranks(content, trainer.world_size, config.ckpt)
        if continues:
            keep_logged_rows(trainer.loggers, content, complete=False)
    trainer.fit(steps.module, datamodule=steps.data, ckpt_path=config.ckpt, weights_only=True)
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step}


def _earlier_records(config: DictConfig, parts: Parts | DecoderParts) -> list[Record]:
    """Return the records of a run that is already finished; they are added to the file ``record`` if missing there."""
    finished = finished_record(config, parts.data_files()) is not None
    records = run_records(record_file(config)) if finished else []
    if config.record is not None:
        for record in records:
            _append_missing(config.record, record)
    return records


@rank_zero_only
def _write_table(records: Sequence[Record], folder: Path) -> None:
    if records[-1]["kind"] == Validation.kind:
        for record in records:
            score = record["metrics"][record["monitor"]]
            print(f"{record['policy']} {record['rho']:g}: {record['monitor']} {score:.4f} on validation rows")
        print(detail_table([as_test_rows(record) for record in records]).rstrip("\n"))
        return
    if records[-1]["kind"] == Decoding.kind:
        table = decoding_table(records)
    else:
        table = "\n".join(part for part in (quality_table(records), detail_table(records)) if part)
    write_atomic(folder / "table.md", table)
    print(table.rstrip("\n"))
    if (records[-1].get("keep_ratio") or {}).get("by_layer") and (page := folder / HEATMAP).exists():
        print(f"\nTexts with the kept tokens shaded, to open in a browser: {page.resolve()}")


@rank_zero_only
def _append_missing(path: str, record: Record) -> None:
    append_missing_record(path, record)


def _finish_wandb() -> None:
    if "wandb" in sys.modules:  # otherwise the next run of a sweep would write into this one
        sys.modules["wandb"].finish()


def _quiet() -> None:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{message}.*")
