"""Read columns of one local file: parquet, csv (with a header line) or jsonl (one object per line).

Own readers, because an error has to name the file, the line and the remedy.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retention.data.table import RawTable, require_columns
from retention.errors import DataError

# Documents can be longer than the csv module's default of 128 KiB per field.
_CSV_FIELD_LIMIT = 2**31 - 1


def find_split_file(directory: str | Path, split: str, suffixes: Iterable[str] | None = None) -> Path:
    """Return the one file of ``split`` in ``directory``.

    Args:
        directory: the folder.
        split: name of the split, which is the file's name without its suffix.
        suffixes: suffixes that the file may have; None = those of ``READERS``.

    Raises:
        DataError: the folder is missing, or it has no such file, or more than one.
    """
    allowed = tuple(READERS if suffixes is None else suffixes)
    return find_file(directory, [f"{split}{suffix}" for suffix in allowed], list_file_names(split, allowed))


def find_file(directory: str | Path, names: Sequence[str], description: str) -> Path:
    """Return the one file in ``directory`` that has one of these names.

    Args:
        directory: the folder; ``~`` is expanded.
        names: accepted file names.
        description: the same in words, for messages.

    Raises:
        DataError: the folder is missing, or it has no such file, or more than one.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pass data.dir=<folder with {description}>")
    matches = [folder / name for name in names if (folder / name).is_file()]
    if len(matches) == 1:
        return matches[0]
    accepted = ", ".join(names)
    if matches:
        several = " and ".join(path.name for path in matches)
        raise DataError(f"{folder}: has {several}; keep exactly one of {accepted}")
    present = sorted(path.name for path in folder.iterdir())[:8]
    raise DataError(
        f"{folder}: none of {accepted} is there (the folder has: {', '.join(present) or 'nothing'}); "
        f"add one of them or pass data.dir=<folder with it>"
    )


def list_file_names(split: str, suffixes: Iterable[str]) -> str:
    """Format the accepted file names of a split for messages: ``train.parquet, .csv or .jsonl``."""
    *others, last = suffixes
    return f"{split}{', '.join(others)} or {last}" if others else f"{split}{last}"


def read_file(path: Path, columns: dict[str, str]) -> RawTable:
    """Read some columns of a parquet, csv or jsonl file.

    Args:
        path: file to read; its suffix chooses the reader.
        columns: config key -> column to read (``{"text_column": "sentence"}``).

    Raises:
        DataError: the file cannot be read as what its suffix says, a column is missing, or there are no rows.
    """
    try:
        table = READERS[path.suffix](path, columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not table.numbers:
        raise DataError(f"{path}: has no rows; put the data there or point data.dir to another folder")
    return table


def _read_parquet(path: Path, columns: dict[str, str]) -> RawTable:
    try:
        with pq.ParquetFile(path) as file:
            require_columns(str(path), file.schema_arrow.names, columns)
            read = file.read(columns=list(dict.fromkeys(columns.values())))
        values = {name: read.column(name).to_pylist() for name in columns.values()}
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file ({_first_line(error)}); write it again") from None
    return RawTable(str(path), "row", range(1, read.num_rows + 1), values)


def _read_csv(path: Path, columns: dict[str, str]) -> RawTable:
    values: dict[str, list[object]] = {name: [] for name in columns.values()}
    numbers: list[int] = []
    with _long_csv_fields():
        reader = csv.reader(_utf8_lines(path), strict=True)
        start = 1
        try:
            header = next(reader, [])
            require_columns(str(path), header, columns)
            positions = {name: header.index(name) for name in values}
            start = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise DataError(f"{path}, line {start}: has {len(fields)} fields, the header has {len(header)}")
                if fields:
                    numbers.append(start)
                    for name, position in positions.items():
                        values[name].append(fields[position])
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: broken CSV ({error}); check its quotation marks") from None
    return RawTable(str(path), "line", numbers, values)


def _read_jsonl(path: Path, columns: dict[str, str]) -> RawTable:
    values: dict[str, list[object]] = {name: [] for name in columns.values()}
    numbers: list[int] = []
    for number, line in enumerate(_utf8_lines(path), start=1):
        if not line.strip():
            continue
        record = _parse_json_object(line, f"{path}, line {number}")
        if not numbers:
            require_columns(str(path), list(record), columns)
        numbers.append(number)
        for name, column in values.items():
            column.append(record.get(name))
    return RawTable(str(path), "line", numbers, values)


READERS: dict[str, Callable[[Path, dict[str, str]], RawTable]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}


def _parse_json_object(line: str, location: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: broken JSON ({_first_line(error)}); write one complete object per line") from None
    if not isinstance(record, dict):
        raise DataError(f"{location}: must be a JSON object with named fields, got {type(record).__name__}")
    return record


def _utf8_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, with their line ends, without a byte order mark."""
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                at = offset + len(raw) - len(line) + error.start
                raise DataError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at byte offset {at}); "
                    f"convert the file, for example: iconv -f LATIN1 -t UTF-8 {path.name}"
                ) from None
            offset += len(raw)


@contextmanager
def _long_csv_fields() -> Iterator[None]:
    before = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
