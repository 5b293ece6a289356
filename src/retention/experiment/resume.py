"""Recognize finished and interrupted runs, so that a restarted sweep runs only what is left."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from retention.callbacks.last_checkpoint import LAST
from retention.errors import CheckpointError, Checks, DataError
from retention.experiment.checkpoints import read_checkpoint
from retention.experiment.data_files import changed_files, newer_files
from retention.experiment.run_config import CONFIG, read_run_config
from retention.experiment.sharded_strategy import SHARDED
from retention.experiment.stored import FROM_COMMAND, plain_config, plain_container
from retention.records import Record
from retention.records.defaults import derived_defaults
from retention.records.run_folders import RECORD, VALIDATION_RECORD, run_records

_REPLACED = "record.replaced.json"
_INPUTS = ("init", "ckpt", "distill.teacher")  # checkpoints, which may have been overwritten since
# another file for the record, the rows that are scored last, how often a checkpoint is written
_INCIDENTAL = {"record", "evaluate", "callbacks.checkpoint.every_n_minutes"}
# Settings that are not part of the folder name of a sweep's job, see `exclude_keys` in conf/config.yaml.
_NOT_IN_JOB_NAME = ("init", "data.dir", "backbone.path", "distill.teacher", "texts")
_NOT_TRAINING = {  # limits of the training, how rows are loaded and described, and what is scored
    *("task.epochs", "task.data.num_workers", "task.data.eval_batch_size", "backbone.attn_implementation"),
    *("data.source", "data.provenance", "task.data.local_note", "task.data.local_provenance"),
    *("task.data.source_note", "task.data.provenance", "task.monitor", "task.compare"),
    *("data.test_size", "task.data.test_size", "task.test_size", "task.test_texts", "task.sizes", "task.baseline"),
    "task.data.label_names",  # checkpoints have those in use, which a file of the data may have given
}
# The trainer's settings that change the training; its limits may be raised, and other checks compare its processes.
_TRAINER = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")
_INTERRUPTED = "interrupted.ckpt"
LOCAL_CHECKPOINT = "last"  # ckpt=last: the checkpoint in the run folder, if there is one
_MAX_SHOWN = 3

log = logging.getLogger(__name__)


def finished_record(config: DictConfig, data_files: Iterable[Path] = ()) -> Record | None:
    """Return the main record that this run left in its folder; None if it has to be run.

    A run is finished if its folder holds a record, every resolved setting is unchanged (the folder itself may have
    been moved), no data file has changed, and none of the checkpoints it started from is newer. Otherwise the
    differences are logged.

    Args:
        config: of the run.
        data_files: files that the run reads its rows from.

    Raises:
        DataError: the folder's record cannot be read.
    """
    file = record_file(config)
    if not file.exists() or not _is_same_run(file, config, list(data_files)):
        return None
    record = run_records(file)[-1]
    log.info("%s: already finished, not run again (to repeat it, remove the folder)", file.parent)
    return record


def trained_checkpoint(config: DictConfig, data_files: Iterable[Path] = ()) -> Path | None:
    """Return the checkpoint of a finished run that differs from this one in nothing but ``evaluate``.

    Its folder holds the record of the other rows; the model only has to be scored.

    Args:
        config: of the run.
        data_files: files that the run reads its rows from.

    Returns:
        The checkpoint in the run folder; None if the model has to be trained.
    """
    folder = Path(config.paths.run_dir)
    checkpoint = checkpoint_path(folder)
    file = folder / (RECORD if _validates(config) else VALIDATION_RECORD)
    available = config.mode == "fit" and config.ckpt in (None, str(checkpoint)) and checkpoint.exists()
    if not available or record_file(config).exists() or not file.exists():
        return None
    if file.stat().st_mtime < checkpoint.stat().st_mtime or not _is_same_run(file, config, list(data_files)):
        return None
    log.info("%s: already trained, only scored on %s rows", folder, config.evaluate)
    return checkpoint


def record_file(config: DictConfig) -> Path:
    """Return the file in the run folder that a run writes its record to."""
    return Path(config.paths.run_dir) / (VALIDATION_RECORD if _validates(config) else RECORD)


def checkpoint_path(folder: str | Path) -> Path:
    """Return the path of the latest checkpoint of a run folder."""
    return Path(folder) / "checkpoints" / LAST


def use_local_checkpoint(config: DictConfig) -> None:
    """Replace ``ckpt=last`` by the checkpoint that an interrupted run left in the run folder; by null if there is none.

    A finished run has a record; its checkpoint is not resumed.
    """
    if config.mode == "fit" and config.ckpt == LOCAL_CHECKPOINT:
        local = checkpoint_path(config.paths.run_dir)
        config.ckpt = str(local) if local.exists() and not has_record(local) else None


def check_resumed_training(config: DictConfig, data_files: Iterable[Path] = ()) -> None:
    """Raise ``ConfigError`` if a training would be resumed with other settings or data than it was started with.

    Optimizer and schedule come from the checkpoint, so the run would have a record of settings that were not in use.
    Limits of the training may be raised, and settings that do not change the training may differ.

    Args:
        config: of the run, with the checkpoint ``ckpt``.
        data_files: files that the run reads its rows from; one that the training did not read may differ.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    path = Path(config.ckpt)
    now: Any = OmegaConf.to_container(config, resolve=True)
    from_command = {key: value for key, value in now.items() if key in FROM_COMMAND}
    stored = OmegaConf.create({**from_command, **plain_config(read_checkpoint(path), path)})
    old, new, defaults = _settings(plain_container(stored, path)), _settings(now), derived_defaults(now)
    started = read_run_config(path.resolve().parent.parent / CONFIG) if path.name == LAST else None
    trainer = (started or {}).get("trainer")
    if isinstance(trainer, Mapping):  # a checkpoint has no trainer
        old |= {f"trainer.{key}": trainer.get(key) for key in _TRAINER}
    checks = Checks()
    for key in sorted((old.keys() | new.keys()) - _NOT_TRAINING):
        before, after = (flat.get(key, defaults.get(key)) for flat in (old, new))
        message = (
            f"{path} was trained with {before}, got {after}; to resume its training, repeat the command with the old "
            "value; to train with the new one, leave ckpt out and choose another hydra.run.dir"
        )
        checks.require(before == after, key, message)
    if path.name == LAST:
        for reason in changed_files(path.resolve().parent.parent, data_files, new=False):
            message = (
                f"{reason} since the training of {path} was started; restore the file, or leave ckpt out and choose "
                "another hydra.run.dir to train on the new rows"
            )
            checks.require(False, "data", message)
    checks.finish()


def check_job_folder(config: DictConfig, data_files: Iterable[Path] = (), overrides: Sequence[str] = ()) -> None:
    """Raise ``ConfigError`` if a job of a sweep would replace a finished run of another task or with other input files.

    Sweeps that differ in these alone have the same folders; those of two tasks, if both have the same ``name``.

    Args:
        config: of the job.
        data_files: files that the job reads its rows from.
        overrides: of the job.
    """
    folder, checks = Path(config.paths.run_dir), Checks()
    finished = any((folder / name).exists() for name in (RECORD, VALIDATION_RECORD))
    before = read_run_config(folder / CONFIG) if finished else None
    if before is None:
        return
    option, finished_option = _task_option(overrides), _task_option(_command(folder))
    message = (
        f"is {option}, but {folder} holds a finished run of task={finished_option}, which has the same name and would "
        "be replaced; give the task file its own `name`, choose another hydra.sweep.dir, or remove the folder"
    )
    checks.require(None in (option, finished_option) or option == finished_option, "task", message)
    old = _settings(before)
    for key in (*_NOT_IN_JOB_NAME, *(("ckpt",) if config.mode == "test" else ())):
        given = OmegaConf.select(config, key)
        message = (
            f"is {given}, but {folder} holds a finished run with {old.get(key)}, which would be replaced; choose "
            "another hydra.sweep.dir, or remove the folder"
        )
        checks.require(old.get(key) == given, key, message)
    for reason in changed_files(folder, data_files):
        message = (
            f"{reason} since the finished run in {folder}, which would be replaced; restore the file, choose another "
            "hydra.sweep.dir, or remove the folder"
        )
        checks.require(False, "data", message)
    checks.finish()


def _task_option(words: Sequence[str]) -> str | None:
    """Return the option of the config group ``task`` in overrides or a command; None if it is not given."""
    return next((word.removeprefix("task=") for word in reversed(words) if word.startswith("task=")), None)


def _command(folder: Path) -> list[str]:
    """Return the words of the command of the finished run in a folder; empty if its record does not tell."""
    for file in (folder / RECORD, folder / VALIDATION_RECORD):
        with suppress(DataError, ValueError):  # a record that cannot be read, or a command that is no shell command
            if file.exists():
                return shlex.split(str(run_records(file)[-1].get("command", "")))
    return []


def has_record(checkpoint: str | Path) -> bool:
    """Return True if the run that wrote a checkpoint also wrote its record, so that nothing is left to do."""
    file = Path(checkpoint).resolve()
    records = [file.parent.parent / name for name in (RECORD, _REPLACED)]
    return any(record.exists() and record.stat().st_mtime >= file.stat().st_mtime for record in records)


def training_is_complete(content: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> bool:
    """Return True if a checkpoint is of the end of a training; one that ends by itself says so (``finished``).

    Args:
        content: of ``read_checkpoint``.
        max_epochs: epochs of the whole training; None = not limited.
        max_steps: optimizer steps of the whole training; -1 = not limited.
    """
    epochs = finished_epochs(content)
    enough_steps = 0 <= max_steps <= int(content.get("global_step", 0))
    enough_epochs = max_epochs is not None and 0 <= max_epochs <= epochs
    return bool(content.get("finished", False)) or enough_steps or enough_epochs


def finished_epochs(content: Mapping[str, Any]) -> int:
    """Return the number of finished epochs of a checkpoint."""
    try:
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError):
        return int(content.get("epoch", 0))


def check_ranks(content: Mapping[str, Any], ranks: int, path: str | Path) -> None:
    """Raise ``CheckpointError`` if a training would go on with another number of processes.

    The processes share every batch, so with another number of them the steps of an epoch, the learning-rate schedule
    and the batches that are left would be others. Checkpoints of earlier versions do not say how many there were.

    Args:
        content: of ``read_checkpoint``.
        ranks: number of processes that resume the training.
        path: named in the error.
    """
    states = content.get("rng")
    before = len(states) if isinstance(states, list) else ranks
    if before != ranks:
        raise CheckpointError(
            f"{path}: was written by a training on {before} {'process' if before == 1 else 'processes'} and cannot be "
            f"resumed on {ranks}; set trainer.devices times trainer.num_nodes to {before}, or start a new training "
            f"from its model with {override_of('init', Path(path))}"
        )


def check_strategy(content: Mapping[str, Any], strategy: str, path: str | Path) -> None:
    """Raise ``CheckpointError`` if a sharded training would go on unsharded, or the other way round.

    The two number the parameters in their optimizer states differently, so states could go to other parameters.

    Args:
        content: of ``read_checkpoint``.
        strategy: ``trainer.strategy`` of the run that resumes the training.
        path: named in the error.
    """
    before = bool(content.get("sharded", False))
    if before != (strategy == SHARDED):
        without = "" if before else "out"
        remedy = f"set trainer.strategy={SHARDED}" if before else "set trainer.strategy=ddp or auto"
        raise CheckpointError(
            f"{path}: was written by a training with{without} trainer.strategy={SHARDED} and cannot be resumed with "
            f"trainer.strategy={strategy}; {remedy}, or start a new training from its model with "
            f"{override_of('init', Path(path))}"
        )


def keep_interrupted_checkpoint(config: DictConfig) -> None:
    """Rename the checkpoint that an interrupted run left in this folder, and log how to resume it.

    A training that starts anew would overwrite it.
    """
    folder = Path(config.paths.run_dir)
    last = checkpoint_path(folder)
    if config.mode == "fit" and config.ckpt is None and last.exists() and not has_record(last):
        kept = last.with_name(_INTERRUPTED)
        os.replace(last, kept)
        log.warning(
            "%s holds the checkpoint of an interrupted run; this run starts anew and keeps it as %s (to go on from it: "
            "%s; next time: ckpt=last)",
            *(folder, kept.name, override_of("ckpt", kept)),
        )


def resume_hint(config: DictConfig, *, sweep: bool) -> str:
    """Return how to go on with a run that was stopped."""
    if config.mode == "test":
        return "run the same command again"
    if not checkpoint_path(config.paths.run_dir).exists():
        return "no checkpoint was written yet; run the same command again"
    if sweep:
        return "to go on, run the same command with ckpt=last (jobs that are finished are not run again)"
    folder = override_of("hydra.run.dir", Path(config.paths.run_dir))
    return f"to go on, run the same command with {folder} ckpt=last"


def override_of(key: str, path: Path) -> str:
    """Return ``key=path`` as it is typed in a shell, with the quotes that Hydra needs for special characters."""
    plain = re.fullmatch(r"[\w./+@:-]+", str(path), flags=re.ASCII)
    return f"{key}={path}" if plain else f"\"{key}='{path}'\""


def put_record_aside(folder: Path, *, validation: bool = False) -> None:
    """Rename the record of an earlier run, so that it never lies beside files of a later run.

    Args:
        folder: the run folder.
        validation: True to remove the record of validation rows too, because training starts anew.
    """
    if (folder / RECORD).exists():
        os.replace(folder / RECORD, folder / _REPLACED)
    if validation:
        (folder / VALIDATION_RECORD).unlink(missing_ok=True)


def _validates(config: DictConfig) -> bool:
    return bool(config.get("evaluate", "test") == "validation")


def _is_same_run(record: Path, config: DictConfig, data_files: list[Path]) -> bool:
    """Return True if a run would repeat the one that left a record in its folder; otherwise log the differences."""
    folder = record.parent
    reasons = [*_changes(folder / CONFIG, config), *_newer_inputs(record, config), *changed_files(folder, data_files)]
    if reasons:
        more = f" and {len(reasons) - _MAX_SHOWN} more" if len(reasons) > _MAX_SHOWN else ""
        listed = "; ".join(reasons[:_MAX_SHOWN]) + more
        message = "%s holds the record of another run (%s): running again (to keep it, choose another hydra.run.dir)"
        log.warning(message, folder, listed)
    elif newer := newer_files(folder, record, data_files):
        message = "%s was written after the run in %s; if its rows have changed, remove the folder to run again"
        log.warning(message, ", ".join(newer), folder)
    return not reasons


def _changes(file: Path, config: DictConfig) -> list[str]:
    """Return ``key: before -> now`` for every resolved setting that differs from a ``config.yaml``."""
    if not file.exists():
        return [f"{file.name} is missing"]
    before = read_run_config(file)
    if before is None:
        return [f"{file.name} cannot be read"]
    paths = before.get("paths")
    run_dir = paths.get("run_dir") if isinstance(paths, dict) else None
    if not isinstance(run_dir, str) or "${" in run_dir:  # the file of a run is resolved
        return [f"{file.name} has no paths.run_dir"]
    moved = config.copy()
    moved.paths.run_dir = run_dir
    equivalent = {None, str(checkpoint_path(run_dir)), str(checkpoint_path(config.paths.run_dir))}
    if before.get("ckpt") in equivalent and config.ckpt in equivalent:
        moved.ckpt = before.get("ckpt")  # resumed or not, it is the same run
    now = yaml.safe_load(OmegaConf.to_yaml(moved, resolve=True))  # through YAML, like ``before``
    old, new = _settings(before), _settings(now)
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted(old.keys() | new.keys())
        if key not in _INCIDENTAL and not (key in old and key in new and old[key] == new[key])
    ]


def _settings(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; an empty mapping is a value."""
    if not isinstance(node, Mapping) or (prefix and not node):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _settings(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _newer_inputs(record: Path, config: DictConfig) -> list[str]:
    finished = record.stat().st_mtime
    paths = {key: OmegaConf.select(config, key) for key in _INPUTS}
    return [
        f"{key}: {path} was written since"
        for key, path in paths.items()
        if path is not None and Path(path).exists() and Path(path).stat().st_mtime > finished
    ]
