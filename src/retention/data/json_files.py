"""Reading one local JSON file, plain or gzip-compressed, and checking what it holds."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retention.errors import DataError

_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bool: "true or false", int: "a number"}


def read_json(path: Path) -> Any:
    """The content of a ``.json`` or ``.json.gz`` file.

    Raises:
        DataError: it cannot be read as what its name says; the message names the file and the remedy.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
        return json.loads(text)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}, not a readable gzip file; is it whole?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON ({error}); get or write it again") from None


def item(record: Any, key: str, kind: type, place: str) -> Any:
    """``record[key]``, which has to be there and of this kind.

    Raises:
        DataError: the record is no object, or the value is missing or of another kind.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: must be an object with {key!r}, got {type(record).__name__}; mend the file")
    if key not in record:
        raise DataError(f"{place}: has no {key!r}, only {', '.join(map(repr, record)) or 'nothing'}; mend the file")
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{place}: {key!r} must be {_KINDS[kind]}, got {value!r:.80}; mend the file")
    return value


def require_whole_characters(record: Any, place: str) -> None:
    """Refuse half characters (lone surrogates), which JSON can spell but no file of UTF-8 can hold.

    Raises:
        DataError: there is one somewhere in ``record``.
    """
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        around = str(error.object)[max(0, error.start - 20) : error.start]
        raise DataError(
            f"{place}: has half a character (lone surrogate) after {around!r}; mend the row or leave it out"
        ) from None
