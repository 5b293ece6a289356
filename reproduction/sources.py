"""Which records reports are made from.

``results/quality`` and ``results/sweeps`` hold training runs, ``results/speed`` measurements. ``results/trials`` holds
screening runs on rows of their own that chose the default recipe; no report reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduction.paper import KNOBS
from reproduction.runs import Cells, Record, sort_runs
from retention.errors import DataError
from retention.records import read_numbered

FOLDERS = ("quality", "sweeps", "speed")


@dataclass(frozen=True)
class Evidence:
    """Records, each with ``at``: the ``file:line`` it stands at."""

    records: tuple[Record, ...]

    @cached_property
    def runs(self) -> Cells:
        """Quality records with the default beta, gamma and zeta; others belong to the sweeps of Figure 2."""
        return sort_runs(record for record in self.records if record["kind"] == "quality" and not _turned(record))

    @cached_property
    def speeds(self) -> tuple[Record, ...]:
        """Speed records with the default beta, gamma and zeta."""
        return tuple(record for record in self.records if record["kind"] == "speed" and not _turned(record))

    def of_tasks(self, tasks: Sequence[str]) -> Evidence:
        """Without the runs of other tasks; measurements of speed belong to none and stay.

        Raises:
            DataError: there is no run of one of the tasks.
        """
        known = {record["task"] for record in self.records if record["kind"] == "quality"}
        if unknown := sorted(set(tasks) - known):
            raise DataError(
                f"--task: no record of {', '.join(unknown)}; there are {', '.join(sorted(known)) or 'none'}"
            )
        return Evidence(tuple(record for record in self.records if record.get("task", tasks[0]) in tasks))


def committed_files(root: Path) -> list[Path]:
    """The record files below ``root/results`` that reports read, in a fixed order."""
    return [path for folder in FOLDERS for path in sorted((root / "results" / folder).glob("*.jsonl"))]


def read_evidence(paths: Iterable[Path], root: Path) -> Evidence:
    """Read record files; places below ``root`` are told relative to it.

    Raises:
        DataError: a file cannot be read, or a line of it is no record.
    """
    records: list[Record] = []
    for path in paths:
        absolute = path.resolve()
        shown = absolute.relative_to(root) if absolute.is_relative_to(root) else path
        records += [record | {"at": f"{shown}:{number}"} for number, record in read_numbered(path)]
    return Evidence(tuple(records))


def cite(records: Sequence[Record]) -> str:
    """Where records stand, and the commits and days they come from."""
    files: dict[str, list[str]] = {}
    for record in records:
        file, _, line = str(record.get("at", "unfiled:?")).rpartition(":")
        files.setdefault(file, []).append(line)
    places = ", ".join(f"{file}:{','.join(lines)}" for file, lines in files.items())
    commits = "/".join(sorted({_short(str(record.get("commit", "unknown"))) for record in records}))
    days = "/".join(sorted({str(record.get("date", "undated"))[:10] for record in records}))
    return f"{places} ({days}, {commits})" if records else "-"


def _turned(record: Record) -> bool:
    policy: Any = (record.get("config") or {}).get("retention") or {}
    return any(name in policy and policy[name] != default for name, default in KNOBS.items())


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return digits[:8] + dash + dirty
