"""Read columns of one local file: parquet, csv or tsv (with a header line), or jsonl (one object per line; also .gz).

Own readers, because an error has to name the file, the line and the remedy.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retention.data.table import RawTable, require_columns
from retention.errors import DataError, first_line
from retention.json_text import DuplicateKeyError, parse_json

# Documents can be longer than the csv module's default of 128 KiB per field.
_CSV_FIELD_LIMIT = 2**31 - 1
_CONVERT = "convert the file, for example: iconv -t UTF-8"


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
    if folder.is_file():
        raise DataError(f"{folder}: is a file; pass its folder, data.dir={folder.parent} with {description}")
    if not folder.is_dir():
        looked = "" if folder.is_absolute() else f" ({folder.absolute()})"
        raise DataError(f"{folder}{looked}: no such folder; pass data.dir=<folder with {description}>")
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
    """Read some columns of a parquet, csv, tsv, jsonl or jsonl.gz file.

    Args:
        path: file to read; its suffix chooses the reader.
        columns: config key -> column to read (``{"text_column": "sentence"}``).

    Raises:
        DataError: the file cannot be read as what its suffix says, a column is missing, or there are no rows.
    """
    reader = next((read for suffix, read in _ALL_READERS.items() if path.name.endswith(suffix)), None)
    if reader is None:
        raise DataError(f"{path}: cannot be read, its name must end with {', '.join(_ALL_READERS)}; convert the file")
    try:
        table = reader(path, columns)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a readable gzip file ({error}); check that it is complete") from None
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
        raise DataError(f"{path}: not a readable parquet file ({first_line(error)}); write it again") from None
    return RawTable(str(path), "row", range(1, read.num_rows + 1), values)


def _read_csv(path: Path, columns: dict[str, str], delimiter: str = ",") -> RawTable:
    values: dict[str, list[object]] = {name: [] for name in columns.values()}
    numbers: list[int] = []
    with _long_csv_fields():
        reader = csv.reader(utf8_lines(path), strict=True, delimiter=delimiter)
        start = 1
        try:
            header = next(reader, [])
            _check_header(path, header, delimiter)
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
            carriage = "new-line character" in str(error)  # lines that end with a carriage return alone
            remedy = "save it with the line ends of Unix or Windows" if carriage else "check its quotation marks"
            raise DataError(f"{path}, line {start}: broken CSV ({error}); {remedy}") from None
    return RawTable(str(path), "line", numbers, values)


def _read_jsonl(path: Path, columns: dict[str, str]) -> RawTable:
    values: dict[str, list[object]] = {name: [] for name in columns.values()}
    numbers: list[int] = []
    for number, line in enumerate(utf8_lines(path), start=1):
        if not line.strip():
            continue
        record = _parse_json_object(line, f"{path}, line {number}")
        if not numbers:
            require_columns(str(path), list(record), columns)
        numbers.append(number)
        for name, column in values.items():
            column.append(record.get(name))
    return RawTable(str(path), "line", numbers, values)


def _read_lines(path: Path, columns: dict[str, str]) -> RawTable:
    """Read the non-blank lines of a text file, which are the values of the one column that is requested."""
    if len(set(columns.values())) != 1:
        raise DataError(f"{path}: a .txt file has one text per line and no columns; use .jsonl, .parquet or .csv")
    lines = [(number, line.strip()) for number, line in enumerate(utf8_lines(path), start=1) if line.strip()]
    [name] = set(columns.values())
    return RawTable(str(path), "line", [number for number, _ in lines], {name: [line for _, line in lines]})


_Reader = Callable[[Path, dict[str, str]], RawTable]

# Formats of split files, and those of a file that is named by its path.
READERS: dict[str, _Reader] = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}
_ALL_READERS: dict[str, _Reader] = {
    **READERS,
    ".jsonl.gz": _read_jsonl,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".txt": _read_lines,
}


def _parse_json_object(line: str, location: str) -> dict[str, object]:
    try:
        record = parse_json(line)
    except DuplicateKeyError as error:
        raise DataError(f"{location}: {error.msg}; remove one of them") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: broken JSON ({first_line(error)}); write one complete object per line") from None
    if not isinstance(record, dict):
        raise DataError(f"{location}: must be a JSON object with named fields, got {type(record).__name__}")
    return record


def utf8_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, with their line ends, without a byte order mark."""
    offset = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if number == 1 and _is_utf16(raw):
                raise DataError(f"{path}: is UTF-16, not UTF-8; {_CONVERT} -f UTF-16 {path.name}")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                at = offset + len(raw) - len(line) + error.start
                raise DataError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at byte offset {at}); "
                    f"{_CONVERT} -f LATIN1 {path.name}"
                ) from None
            offset += len(raw)


def _is_utf16(line: bytes) -> bool:
    """Return True if a first line begins with the byte order mark of UTF-16, or every other byte is null."""
    return line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 3 * line.count(0) > len(line)


def _check_header(path: Path, header: Sequence[str], delimiter: str) -> None:
    """Raise ``DataError`` if a header of one field looks like several that something else separates."""
    marks = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
    for mark, name in marks.items():
        if len(header) == 1 and mark != delimiter and mark in header[0]:
            separators = "tabs" if delimiter == "\t" else "commas"
            raise DataError(f"{path}: its columns are separated by {name}; save it with {separators} instead")


@contextmanager
def _long_csv_fields() -> Iterator[None]:
    before = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)
