"""Notice that the data files of a run have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.records import write_atomic
from retention.records.files import read_objects

DATA_FILES = "data_files.json"  # written when a run starts: size, time of change and digest of each file


def write_data_files(folder: Path, files: Iterable[Path]) -> None:
    """Write into a run folder what tells its data files from later ones; nothing for data that is not in files."""
    described = {str(file): {**_stamp(file), "sha256": _digest(file)} for file in files}
    if described:
        write_atomic(folder / DATA_FILES, json.dumps(described, ensure_ascii=False, indent=2) + "\n")
    else:
        (folder / DATA_FILES).unlink(missing_ok=True)  # of an earlier run in this folder


def changed_files(folder: Path, files: Iterable[Path], *, new: bool = True) -> list[str]:
    """Return ``<file> has changed`` or ``<file> is new`` for each data file that differs from when a run started.

    Only a file with another size or time of change is read. Files that are gone do not count: the run could not be
    repeated. Runs of earlier versions did not describe their files.

    Args:
        folder: run folder.
        files: existing data files of the configuration.
        new: False to leave out files that the run did not read.
    """
    before = _described(folder / DATA_FILES)
    if before is None:
        return []
    compared = [file for file in files if new or str(file) in before]
    return [reason for file in compared if (reason := _change(file, before.get(str(file))))]


def newer_files(folder: Path, record: Path, files: Iterable[Path]) -> list[str]:
    """Return the data files that were written after the record of a run that did not describe its files."""
    if (folder / DATA_FILES).exists():
        return []
    finished = record.stat().st_mtime
    return [str(file) for file in files if file.stat().st_mtime > finished]


def _change(file: Path, before: Any) -> str | None:
    if not isinstance(before, dict):
        return f"{file} is new"
    same = all(before.get(key) == value for key, value in _stamp(file).items()) or before.get("sha256") == _digest(file)
    return None if same else f"{file} has changed"


def _described(path: Path) -> dict[str, Any] | None:
    """Return the description of the files of a run: None if it has none, empty if it cannot be read."""
    if not path.exists():
        return None
    try:
        [(_, content)] = read_objects(path)
    except DataError:
        return {}
    return content


def _stamp(file: Path) -> dict[str, int]:
    status = file.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
