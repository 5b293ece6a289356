"""Sweeps that survive kills and failures: a Hydra callback, for every launcher."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from retention.errors import ConfigError, Problem, RetentionError
from retention.experiment.resume import RECORD
from retention.records import Record, append_record, read_records, write_atomic, write_records
from retention.report.quality_table import quality_table

_LONGEST = 150  # bytes of a job's folder name; file systems stop at 255
_IN_FOLDER = {"task", "seed"}  # left out of its name, but folders above and below it are called after them

log = logging.getLogger(__name__)


class Sweep(Callback):
    """Lets a sweep go on after a failed job, and ends it with one table and one list of failures.

    A sweep is its folder: its records and its table are made anew from all run folders in it, so that they are the same
    whether the jobs were run now, earlier, or in several processes. Each invocation notes the outcome of its own jobs
    in a file of its own, which every process that a launcher starts can append to. Also makes ``${job_name:...}``
    known to the configuration.
    """

    def __init__(self) -> None:
        self._jobs: Path | None = None
        _register_job_name()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in a process of a launcher, which composes the folder of its jobs itself."""
        self.__dict__.update(state)
        _register_job_name()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the file of this invocation; exit with status 2 if jobs would share a folder."""
        try:
            check_folders(config)
        except RetentionError as error:
            print(_text(error), file=sys.stderr)
            raise SystemExit(2) from None  # of any other exception Hydra makes a warning
        name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}.jsonl"
        self._jobs = Path(config.hydra.sweep.dir).absolute() / ".jobs" / name

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note how a job of a sweep ended."""
        if self._jobs is None:
            return
        error = _error_of(job_return)
        if error is not None:
            log.error("%s", _text(error), exc_info=None if isinstance(error, RetentionError) else error)
        self._note(self._jobs, config, error)
        # Otherwise the sweeper raises the first error after the last job, and there is no on_multirun_end.
        if error is not None:
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    @rank_zero_only
    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write records and table of the whole sweep; exit with status 1 if a job of this invocation failed."""
        assert self._jobs is not None  # set in on_multirun_start
        try:
            jobs = read_records([self._jobs]) if self._jobs.exists() else []
            print(leave_report(Path(config.hydra.sweep.dir), jobs))
        except RetentionError as error:
            print(_text(error), file=sys.stderr)
            raise SystemExit(1) from None
        if any(job["error"] is not None for job in jobs):
            raise SystemExit(1)

    @rank_zero_only
    def _note(self, path: Path, config: DictConfig, error: Exception | None) -> None:
        told = None if error is None else _text(error)
        append_record(path, {"kind": "job", "folder": config.hydra.runtime.output_dir, "error": told})


def check_folders(config: DictConfig) -> None:
    """Raise ``ConfigError`` if a key is swept that is no part of a job's folder name.

    Args:
        config: of the whole sweep, with its ``hydra`` node.
    """
    silent = set(config.hydra.job.config.override_dirname.exclude_keys) - _IN_FOLDER
    typed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    remedy = "cannot be swept, its jobs would share a folder; run a sweep for each, with a hydra.sweep.dir of its own"
    problems = [Problem(each.key_or_group, remedy) for each in typed if each.is_sweep_override()]
    problems = [problem for problem in problems if problem.key in silent]
    if problems:
        raise ConfigError(problems)


def leave_report(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> str:
    """Write ``records.jsonl`` and ``table.md`` of a sweep.

    Args:
        folder: of the sweep; every record in it counts, once.
        jobs: outcomes of this invocation, each with its ``folder`` and its ``error``, if any.

    Returns:
        The table, followed by the failed jobs.
    """
    records = read_records(sorted(folder.rglob(RECORD)))
    write_records(folder / "records.jsonl", records)
    report = "\n".join([_table(records), *_failures(jobs)])
    write_atomic(folder / "table.md", report)
    return report


def job_name(overrides: str) -> str:
    """A folder name for what was typed for a job: the words themselves, or their beginning and a digest.

    Args:
        overrides: ``key=value,key=value``, as in ``hydra.job.override_dirname``.

    >>> job_name("retention.rho=0.3,retention=adaptive")
    'retention.rho=0.3,retention=adaptive'
    >>> job_name("")
    'defaults'
    >>> job_name("retention.schedule=[0.5, 0.3]")
    'retention.schedule=_0.5,_0.3_-4d65d202'
    """
    plain = re.sub(r"[^\w.,=+~@-]", "_", overrides, flags=re.ASCII)
    if plain == overrides and len(plain) <= _LONGEST:
        return plain or "defaults"
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{plain[: _LONGEST - 9]}-{digest}"


def _register_job_name() -> None:
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)


def _error_of(job_return: JobReturn) -> Exception | None:
    try:
        _ = job_return.return_value  # raises what the job raised
    except Exception as error:
        return error
    return None


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _table(records: Sequence[Record]) -> str:
    try:
        return quality_table(records)
    except RetentionError as error:  # nothing finished, or a record of another version
        return f"No table: {error}\n"


def _failures(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    failed = [job for job in jobs if job["error"] is not None]
    lines = [f"{len(failed)} of {len(jobs)} jobs failed:"] if failed else []
    for job in failed:
        lines += [f"  {job['folder']}", *(f"    {line}" for line in job["error"].splitlines())]
    return [*lines, "The same command again runs only what is missing.", ""] if failed else []
