"""Let sweeps survive interrupted and failed jobs: a Hydra callback that works with every launcher."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only

from retention.errors import ConfigError, Problem, RetentionError
from retention.experiment.folders import register_resolvers
from retention.records import append_record, read_records, write_atomic, write_records
from retention.records.run_folders import nested_records
from retention.report.run_tables import run_tables

_IN_FOLDER = {"task", "seed"}  # excluded from a job's folder name, but part of the folders above and below it

log = logging.getLogger(__name__)


class Sweep(Callback):
    """Hydra callback that continues a sweep after a failed job, and ends it with one table and one list of failures.

    Records and table of a sweep are made from all run folders in its folder, so they do not depend on whether the jobs
    were run now, earlier, or in several processes. Each invocation writes the outcome of its jobs to one file, which
    every process that a launcher starts can append to. The resolvers of the configuration are registered here too.
    """

    def __init__(self) -> None:
        self._jobs: Path | None = None
        register_resolvers()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the callback in a process of a launcher, which resolves the folders of its jobs itself."""
        self.__dict__.update(state)
        register_resolvers()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the file of this invocation; exit with status 2 if jobs would share a folder."""
        try:
            check_folders(config)
        except RetentionError as error:
            print(_text(error), file=sys.stderr)
            raise SystemExit(2) from None  # Hydra turns all other exceptions into warnings
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}.jsonl"
        self._jobs = Path(config.hydra.sweep.dir).absolute() / ".jobs" / name

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write the outcome of a job of a sweep."""
        if self._jobs is None:
            return
        error = _error_of(job_return)
        if error is not None:
            log.error("%s", _text(error), exc_info=None if isinstance(error, RetentionError) else error)
        self._write_outcome(self._jobs, config, error)
        # Otherwise the sweeper raises the first error after the last job and does not call on_multirun_end.
        if error is not None:
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    @rank_zero_only
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write records and table of the whole sweep; exit with status 1 if a job of this invocation failed."""
        assert self._jobs is not None  # set in on_multirun_start
        try:
            jobs = read_records([self._jobs]) if self._jobs.exists() else []
            print(write_report(Path(config.hydra.sweep.dir), jobs))
        except RetentionError as error:
            print(_text(error), file=sys.stderr)
            raise SystemExit(1) from None
        if any(job["error"] is not None for job in jobs):
            raise SystemExit(1)

    @rank_zero_only
    def _write_outcome(self, path: Path, config: DictConfig, error: Exception | None) -> None:
        message = None if error is None else _text(error)
        append_record(path, {"kind": "job", "folder": config.hydra.runtime.output_dir, "error": message})


def check_folders(config: DictConfig) -> None:
    """Raise ``ConfigError`` if jobs of a sweep would share a folder.

    That is so if a key is swept that is not part of a job's folder name, and if swept tasks have the same name.

    Args:
        config: configuration of the whole sweep, with its ``hydra`` node.
    """
    excluded = set(config.hydra.job.config.override_dirname.exclude_keys) - _IN_FOLDER
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    message = (
        "cannot be swept, its jobs would share a folder; run one sweep per value, each with its own hydra.sweep.dir"
    )
    swept = [each.key_or_group for each in typed if each.is_sweep_override()]
    problems = [Problem(key, message) for key in swept if key in excluded]
    if problems:
        raise ConfigError(problems)
    recipe = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    _check_task_names(config, [*recipe, *typed])


def _check_task_names(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Raise ``ConfigError`` if two swept options of the config group ``task`` have the same ``name``."""
    tasks = [each for each in overrides if each.key_or_group == "task" and each.is_sweep_override()]
    options = list(dict.fromkeys(tasks[-1].sweep_string_iterator())) if tasks else []
    if len(options) < 2:
        return
    words = [word for word in config.hydra.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath")]
    words += [_first_value(each) for each in overrides if each.key_or_group != "task"]
    options_by_name: dict[str, str] = {}
    problems = []
    for option in options:
        try:
            name = str(compose(config.hydra.job.config_name, overrides=[*words, f"task={option}"]).task.name)
        except (HydraException, OmegaConfBaseException):  # its job reports what is wrong
            continue
        other = options_by_name.setdefault(name, option)
        message = (
            f"{other} and {option} are both named {name}, so their jobs would share a folder; give one of the two task "
            "files its own `name`"
        )
        problems += [] if other == option else [Problem("task", message)]
    if problems:
        raise ConfigError(problems)


def _first_value(override: Override) -> str:
    """Return an override with the first of its swept values, as it is typed."""
    line = str(override.input_line)
    listed = override.is_choice_sweep() or override.is_range_sweep()
    return f"{line.partition('=')[0]}={next(override.sweep_string_iterator())}" if listed else line


def jobs_left(folder: Path, number: int) -> list[str]:
    """Return the jobs of a sweep from one number on, each as the overrides in which the jobs differ.

    Args:
        folder: folder of the sweep, in which Hydra's sweeper wrote the overrides of the whole sweep.
        number: number of the first job, 0-based.
    """
    sweep = OmegaConf.load(folder / "multirun.yaml")
    params = OmegaConf.select(sweep, "hydra.sweeper.params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *sweep.hydra.overrides.task]
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    swept = [index for index, same in enumerate(zip(*jobs, strict=True)) if len(set(same)) > 1]
    return [" ".join(job[index] for index in swept) or "the only job" for job in jobs[number:]]


def write_report(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> str:
    """Write ``records.jsonl`` and ``table.md`` of a sweep.

    Args:
        folder: folder of the sweep; every record in it counts, once.
        jobs: outcomes of this invocation, each with its ``folder`` and its ``error`` (None = success).

    Returns:
        The tables of the test rows and of the validation rows, followed by the failed jobs.
    """
    records = nested_records(folder)
    write_records(folder / "records.jsonl", records)
    try:
        tables = run_tables(records)
    except RetentionError as error:  # nothing finished, or a record of another version
        tables = f"No table: {error}\n"
    report = "\n".join([tables, *_failures(jobs)])
    write_atomic(folder / "table.md", report)
    return report


def _error_of(job_return: JobReturn) -> Exception | None:
    try:
        _ = job_return.return_value  # raises what the job raised
    except Exception as error:
        return error
    return None


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _failures(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [job for job in jobs if job["error"] is not None]
    lines = [f"{len(failed)} of {len(jobs)} jobs failed:"] if failed else []
    for job in failed:
        lines += [f"  {job['folder']}", *(f"    {line}" for line in job["error"].splitlines())]
    return [*lines, "The same command again runs only what is missing.", ""] if failed else []
