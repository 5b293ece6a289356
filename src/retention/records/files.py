"""Read and write files of result records."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock

from retention.errors import DataError
from retention.json_text import DuplicateKeyError, parse_json
from retention.records.legacy import upgrade_record
from retention.records.plain import Record, plain

log = logging.getLogger(__name__)


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write one record as a JSON file, atomically: readers see the old file or the new one, never a part."""
    write_atomic(Path(path), json.dumps(plain(record, "record"), ensure_ascii=False, indent=2) + "\n")


def append_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON Lines file; create the file and its folder if needed.

    Safe beside other processes that append to the same file: each line is written under a lock. If an earlier writer
    was interrupted within its line, that part of a line is removed first.

    Raises:
        DataError: the line could not be written completely, for example because the disk is full.
    """
    with _locked(Path(path)) as target:
        _append(target, record)


def append_missing_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append a record that was read from a file, unless the JSON Lines file already holds it.

    Check and append happen under one lock, so that concurrent calls append a record once.

    Raises:
        DataError: the file cannot be read, or the line could not be written completely.
    """
    with _locked(Path(path)) as target:
        if not target.exists() or record not in read_records([target]):
            _append(target, record)


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON Lines file, atomically: readers see the old file or the new one, never a part."""
    lines = (json.dumps(plain(record, "record"), ensure_ascii=False) + "\n" for record in records)
    write_atomic(Path(path), "".join(lines))


def read_records(paths: Iterable[str | Path]) -> list[Record]:
    """Read all records of JSON Lines files (``.jsonl``) and of single JSON files (``.json``), in order.

    Records of earlier versions get the present names; unknown fields are passed through.

    Raises:
        DataError: a file cannot be read, or a line of it is not a record; the message names file and line.
    """
    return [record for path in paths for _, record in read_numbered(path)]


def read_numbered(path: str | Path) -> list[tuple[int, Record]]:
    """Read the records of one file, each with its line number (from 1); see ``read_records``."""
    objects = read_objects(path)
    for number, record in objects:
        if "kind" not in record:
            location = path if Path(path).suffix == ".json" else f"{path}:{number}"
            raise DataError(f"{location}: not a result record; expected a JSON object with a 'kind'")
    return [(number, upgrade_record(record)) for number, record in objects]


def read_objects(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Read the objects of a JSON Lines file (or the one of a ``.json`` file), each with its line number (from 1).

    An incomplete last line, which an interrupted writer leaves, is skipped with a warning.

    Raises:
        DataError: the file cannot be read, or a line of it is not a JSON object; the message names file and line.
    """
    source = Path(path)
    if source.suffix == ".json":
        return [(1, _parse(_decode(_read(source), source), str(source)))]
    content = _read(source)
    whole = _whole_lines(content)
    if len(whole) < len(content):
        log.warning("%s: the last line is incomplete, its writer was interrupted; it is skipped", source)
    lines = _decode(whole, source).split("\n")  # splitlines would also split at separators inside JSON strings
    return [(number, _parse(line, f"{source}:{number}")) for number, line in enumerate(lines, start=1) if line.strip()]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it; create the folder if needed. Text is encoded as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield path


def _append(path: Path, record: Mapping[str, Any]) -> None:
    line = json.dumps(plain(record, "record"), ensure_ascii=False).encode() + b"\n"
    try:
        with path.open("a+b", buffering=0) as file:
            end = _end_of_whole_lines(file)
            if end < file.seek(0, os.SEEK_END):
                log.warning("%s: removed an incomplete last line, whose writer was interrupted", path)
                file.truncate(end)
            elif end > 0 and not _ends_with_newline(file):
                line = b"\n" + line
            _write_or_undo(file, line, end)
    except OSError as error:
        raise DataError(f"{path}: the record cannot be written ({error.strerror}); free some space") from error


def _write_or_undo(file: FileIO, line: bytes, end: int) -> None:
    """Append a line and wait until it is on the disk; if that fails, cut the file to its earlier length."""
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


def _end_of_whole_lines(file: FileIO) -> int:
    """Return the length of a file without an incomplete last line."""
    size = file.seek(0, os.SEEK_END)
    if size == 0 or _ends_with_newline(file):
        return size
    file.seek(0)
    return len(_whole_lines(file.readall()))


def _ends_with_newline(file: FileIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _whole_lines(content: bytes) -> bytes:
    """Return the content without an incomplete last line: the beginning of a JSON object, without a line end."""
    start = content.rfind(b"\n") + 1
    last = content[start:]
    if not last.startswith(b"{"):  # not the work of an interrupted writer of records
        return content
    try:
        json.loads(last)
    except (ValueError, RecursionError):  # invalid UTF-8 is a ValueError too
        return content[:start]
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; not a file of records") from error


def _parse(text: str, location: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except DuplicateKeyError as error:
        line = f":{error.lineno}" if error.lineno > 1 else ""  # a line of JSON Lines is named already
        raise DataError(f"{location}{line}: {error.msg}; remove one of them") from error
    except (json.JSONDecodeError, RecursionError) as error:
        reason = (
            f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        )
        raise DataError(
            f"{location}: not valid JSON ({reason}); remove the line if its writer was interrupted"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{location}: not a JSON object")
    return value
