"""Parse JSON texts, and refuse objects that hold the same key twice."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_STRING_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.)*"(?P<colon>\s*:)?|[{}]', re.DOTALL)


class DuplicateKeyError(json.JSONDecodeError):
    """Raised when an object of a JSON text holds a key twice; ``lineno`` and ``colno`` are those of the second one."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text as ``json.loads`` does, but raise where an object holds the same key twice.

    ``json.loads`` keeps the last of the values without a word, which hides faults such as two merged entries.

    Args:
        text: JSON; bytes are decoded as ``json.loads`` decodes them.

    Raises:
        DuplicateKeyError: an object holds a key twice; the message names key, line and column.
        ValueError: the text is not valid JSON or not valid Unicode.
        RecursionError: it is nested too deep.

    Examples:
        >>> parse_json('{"id": 1, "id": 2}')
        Traceback (most recent call last):
        ...
        retention.json_text.DuplicateKeyError: the key 'id' occurs twice in one object: line 1 column 11 (char 10)
    """
    decoded = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    try:
        return json.loads(decoded, object_pairs_hook=_unique_keys)
    except _RepeatedKey:
        raise _locate(decoded) from None


class _RepeatedKey(Exception):
    """Leaves the parser at the first object with a repeated key; the parser does not say where that is."""


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _RepeatedKey
    return content


def _locate(text: str) -> DuplicateKeyError:
    """Build the error for the first repeated key of a text that holds one; the text before it is valid JSON."""
    open_objects: list[set[str]] = []
    for token in _STRING_OR_BRACE.finditer(text):
        if token[0] == "{":
            open_objects.append(set())
        elif token[0] == "}":
            open_objects.pop()
        elif token["colon"]:
            key = json.loads(token[0].removesuffix(token["colon"]))
            if key in open_objects[-1]:
                return DuplicateKeyError(f"the key {key!r} occurs twice in one object", text, token.start())
            open_objects[-1].add(key)
    raise AssertionError("the text holds no repeated key")
