"""Reading and writing files of records."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.records.legacy import upgrade_record
from retention.records.plain import Record, plain


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write one record as a JSON file; readers see the old file or the new one, never a part."""
    write_atomic(Path(path), json.dumps(plain(record, "record"), ensure_ascii=False, indent=2) + "\n")


def append_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON Lines file, making it and its folder if need be.

    Safe beside other writers of the same file: one write under a lock. If an earlier writer was cut off within its
    line, the record starts on a new one.

    Raises:
        DataError: the line could not be written whole (the disk is full, say).
    """
    target = Path(path)
    line = json.dumps(plain(record, "record"), ensure_ascii=False).encode() + b"\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        written = file.write(line)
        os.fsync(file.fileno())
    if written != len(line):
        raise DataError(f"{target}: only {written} of {len(line)} bytes could be written; free some space, try again")


def append_missing_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append a record that was read from a file, unless the JSON Lines file holds it already."""
    if not Path(path).exists() or record not in read_records([path]):
        append_record(path, record)


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON Lines file; readers see the old file or the new one, never a part."""
    lines = (json.dumps(plain(record, "record"), ensure_ascii=False) + "\n" for record in records)
    write_atomic(Path(path), "".join(lines))


def read_records(paths: Iterable[str | Path]) -> list[Record]:
    """All records of JSON Lines files (``.jsonl``) and of single JSON files (``.json``), in order.

    Fields this version does not know are passed through.

    Raises:
        DataError: a file cannot be read, or a line of it is not a record; the message names file and line.
    """
    return [record for path in paths for _, record in read_numbered(path)]


def read_numbered(path: str | Path) -> list[tuple[int, Record]]:
    """The records of one file, each with the number of its line, from 1; see ``read_records``."""
    found = read_objects(path)
    for number, record in found:
        if "kind" not in record:
            where = path if Path(path).suffix == ".json" else f"{path}:{number}"
            raise DataError(f"{where}: not a result record; expected a JSON object with a 'kind'")
    return [(number, upgrade_record(record)) for number, record in found]


def read_objects(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file (of a ``.json``: its one), each with the number of its line, from 1.

    Raises:
        DataError: the file cannot be read, or a line of it is no JSON object; the message names file and line.
    """
    source = Path(path)
    text = _read(source)
    if source.suffix == ".json":
        return [(1, _parse(text, str(source)))]
    lines = text.split("\n")  # splitlines would also split at separators inside JSON strings
    return [(number, _parse(line, f"{source}:{number}")) for number, line in enumerate(lines, start=1) if line.strip()]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then move it into place; makes the folder if need be. Text is UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; it is no file of records") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        remedy = "remove the line if its writer was cut off"
        raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); {remedy}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object")
    return value
