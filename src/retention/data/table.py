"""Columns of a source split as they were read, and the checks of their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retention.errors import DataError, require

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_OTHER_NAMES = "fix the row, or give the file's names in label order: task.data.label_names, or labels.json in data.dir"


@dataclass(frozen=True)
class RawTable:
    """Columns of one source split, values not checked yet.

    Attributes:
        source: file or hub data set, for messages.
        unit: what ``numbers`` count, ``line`` of a text file or ``row``.
        numbers: 1-based line or row of each entry.
        columns: column name -> one value per entry.
    """

    source: str
    unit: Literal["row", "line"]
    numbers: Sequence[int]
    columns: dict[str, list[Any]]

    def location(self, entry: int) -> str:
        """Return the file and line (or data set and row) of an entry (0-based), for messages."""
        return f"{self.source}, {self.unit} {self.numbers[entry]}"

    def texts(self, column: str) -> list[str]:
        """Return the values of ``column``, all of them non-blank texts.

        Raises:
            DataError: a value is missing, not a string, blank, or not writable as UTF-8.
        """
        for entry, value in enumerate(self.columns[column]):
            problem = _text_problem(value)
            if problem:
                raise DataError(f"{self.location(entry)}: {column!r} {problem}; fix the row or remove it")
        return self.columns[column]

    def labels(self, column: str, names: Sequence[str]) -> list[int]:
        """Return the values of ``column`` as classes 0 .. len(names) - 1; digits and names of classes are converted.

        A value that equals the name of a class means that class, whatever its number. Where names are digits
        themselves, other digits mean nothing.

        Args:
            column: column with numbers, digits, or names of classes.
            names: names of the classes, in label order.

        Raises:
            DataError: a value is missing, neither a whole number nor a name, or out of range.
        """
        labels = []
        by_name = {name: label for label, name in enumerate(names)}
        only_names = any(whole_number(name) is not None for name in names)
        for entry, value in enumerate(self.columns[column]):
            named = isinstance(value, str | int) and not isinstance(value, bool)
            label: Any = by_name.get(str(value).strip()) if named else None
            if label is None:
                number = whole_number(value)
                label = value if number is None else number
                problem = _label_problem(label, len(names))
                if not problem and only_names:
                    problem = f"must be one of the names {', '.join(names)}, got {value!r}"
                if problem:
                    meaning = ", ".join(f"{label} = {name}" for label, name in enumerate(names))
                    remedy = f"labels are {meaning}"
                    if only_names or (isinstance(label, str) and label):
                        remedy += f"; {_OTHER_NAMES}"
                    raise DataError(f"{self.location(entry)}: {column!r} {problem}; {remedy}")
            labels.append(label)
        return labels


def whole_number(value: object) -> int | None:
    """Return the whole number that a value is, or that its digits stand for; None for other values."""
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value.strip()) else None
    return value if isinstance(value, int) else None


def require_columns(source: str, present: Iterable[str], columns: Mapping[str, str]) -> None:
    """Check that each required column exists exactly once.

    Args:
        source: file or hub data set, for the message.
        present: names of its columns.
        columns: config key -> required column.

    Raises:
        DataError: a column is missing or occurs several times; the message names the columns present and the config
            key to set.
    """
    counts = Counter(present)
    if not counts:
        raise DataError(f"{source}: is empty; put the data there or point data.dir to another folder")
    for key, column in columns.items():
        if column not in counts:
            names = ", ".join(repr(name) for name in counts)
            raise DataError(f"{source}: has no column {column!r}, only {names}; set task.data.{key} to one of these")
        if counts[column] > 1:
            raise DataError(f"{source}: has {counts[column]} columns named {column!r}; rename or remove all but one")


def require_column_names(columns: Mapping[str, object]) -> None:
    """Check that the value of each config key is a column name.

    Raises:
        ConfigError: a value is not a non-empty string.
    """
    for key, column in columns.items():
        require(isinstance(column, str) and bool(column), key, f"must be a column name, got {column!r}")


def _text_problem(value: object) -> str | None:
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"must be a text, got {value!r:.80} ({type(value).__name__})"
    if not value.strip():
        return "is blank"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"has half a character (lone surrogate) at position {error.start}"
    return None


def _label_problem(value: object, count: int) -> str | None:
    if value is None or value == "":
        return "is missing"
    if isinstance(value, str) and len(value) > 80:
        return f"must be a whole number or a name, got {value[:40]!r}... ({len(value)} characters)"
    if isinstance(value, str):
        return f"must be a whole number or a name, got {value!r}"
    if not isinstance(value, int) or isinstance(value, bool):
        return f"must be a whole number, got {value!r:.80}"
    if value == -1:
        return "is -1, which marks hidden labels; use a split that has its labels"
    if not 0 <= value < count:
        return f"must be from 0 to {count - 1}, got {value}"
    return None
