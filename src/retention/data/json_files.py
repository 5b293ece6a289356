"""Read a local JSON file, plain or gzip-compressed, and check the fields of its objects."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retention.errors import DataError
from retention.json_text import DuplicateKeyError, parse_json

_TYPE_NAMES: dict[type, str] = {
    str: "a text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a number",
}


def read_json(path: Path) -> Any:
    """Load the content of a ``.json`` or ``.json.gz`` file.

    Raises:
        DataError: the file is not what its suffix says; the message names the file and the remedy.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
        return parse_json(text)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a readable gzip file ({error}); check that it is complete") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert the file") from None
    except DuplicateKeyError as error:
        raise DataError(f"{path}:{error.lineno}: {error.msg}; remove one of them") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON ({error}); download or write it again") from None


def required_field(record: Any, key: str, kind: type, location: str) -> Any:
    """Return ``record[key]`` after checking that it exists and has the type ``kind``.

    Raises:
        DataError: the record is no object, or the value is missing or of another type.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{location}: must be an object with {key!r}, got {type(record).__name__}; fix the file")
    if key not in record:
        raise DataError(f"{location}: has no {key!r}, only {', '.join(map(repr, record)) or 'nothing'}; fix the file")
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{location}: {key!r} must be {_TYPE_NAMES[kind]}, got {value!r:.80}; fix the file")
    return value


def require_valid_unicode(record: Any, location: str) -> None:
    """Check that no text in ``record`` holds half a character (lone surrogate), which UTF-8 cannot store.

    Raises:
        DataError: there is one.
    """
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        before = str(error.object)[max(0, error.start - 20) : error.start]
        raise DataError(
            f"{location}: has half a character (lone surrogate) after {before!r}; fix it or remove the entry"
        ) from None
