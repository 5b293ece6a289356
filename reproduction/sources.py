"""Read the committed records that tables, figures and claims are made from.

``results/quality`` and ``results/sweeps`` hold training runs, ``results/speed`` measurements of speed and memory,
``results/theory`` checks of the paper's propositions on small instances, ``results/reliability`` reliability checks,
``results/embedding`` evaluations of embedding models, ``results/paired`` differences of runs on the same test rows.
``results/decoders`` holds measurements of the bounded cache of decoders.
``results/ladder`` holds the runs between the paper's method and our recipe (``reproduction.ladder`` reads it) and
``results/trials`` those that chose the recipe; no claim and no other table reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduction.paper import HYPERPARAMETERS
from retention.errors import DataError
from retention.records import read_numbered
from retention.report.grouping import Record, Runs, group_runs

FOLDERS = ("quality", "sweeps", "speed", "theory", "reliability", "embedding", "paired", "decoders")


@dataclass(frozen=True)
class RecordSet:
    """Records, each with the field ``at``: the ``file:line`` it was read from."""

    records: tuple[Record, ...]

    @cached_property
    def runs(self) -> Runs:
        """Quality records with the default beta, gamma and zeta; others belong to the sweeps of Figure 2."""
        return group_runs(record for record in self.records if not _is_swept(record))

    @cached_property
    def speeds(self) -> tuple[Record, ...]:
        """Speed records with the default beta, gamma and zeta."""
        return tuple(record for record in self.records if record["kind"] == "speed" and not _is_swept(record))

    def of_tasks(self, tasks: Sequence[str]) -> RecordSet:
        """Return the runs of some tasks, and all records that belong to no task.

        Raises:
            DataError: there is no run of one of the tasks.
        """
        existing = {record["task"] for record in self.records if record["kind"] == "quality"}
        if missing := sorted(set(tasks) - existing):
            choices = ", ".join(sorted(existing)) or "none"
            raise DataError(f"--task: no record of {', '.join(missing)}; there are {choices}")
        return RecordSet(tuple(record for record in self.records if record.get("task", tasks[0]) in tasks))


def committed_files(root: Path) -> list[Path]:
    """Return the record files below ``root/results`` that tables are made from, in a fixed order."""
    return [path for folder in FOLDERS for path in sorted((root / "results" / folder).glob("*.jsonl"))]


def read_record_set(paths: Iterable[Path], root: Path) -> RecordSet:
    """Read record files; ``at`` is relative to ``root`` for files below it.

    Raises:
        DataError: a file cannot be read, or one of its lines is not a record.
    """
    records: list[Record] = []
    for path in paths:
        absolute = path.resolve()
        shown = absolute.relative_to(root) if absolute.is_relative_to(root) else path
        records += [record | {"at": f"{shown}:{number}"} for number, record in read_numbered(path)]
    return RecordSet(tuple(records))


def cite(records: Sequence[Record]) -> str:
    """Return files, lines, dates and commits of records."""
    files: dict[str, list[str]] = {}
    for record in records:
        file, _, line = str(record.get("at", "not in a file:?")).rpartition(":")
        files.setdefault(file, []).append(line)
    lines = ", ".join(f"{file}:{','.join(numbers)}" for file, numbers in files.items())
    commits = "/".join(sorted({_short(str(record.get("commit", "unknown"))) for record in records}))
    days = "/".join(sorted({str(record.get("date", "undated"))[:10] for record in records}))
    return f"{lines} ({days}, {commits})" if records else "-"


def _is_swept(record: Record) -> bool:
    policy: Any = (record.get("config") or {}).get("retention") or {}
    return any(name in policy and policy[name] != default for name, default in HYPERPARAMETERS.items())


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return digits[:8] + dash + dirty
