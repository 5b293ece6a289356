"""Columns as they were read, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retention.errors import Checks, DataError

_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class RawTable:
    """Columns of one source split, values not checked yet.

    Attributes:
        source: the file or hub data set, for messages.
        unit: what ``numbers`` count, ``line`` of a text file or ``row``.
        numbers: 1-based line or row of each entry.
        columns: column name -> one value per entry.
    """

    source: str
    unit: Literal["row", "line"]
    numbers: Sequence[int]
    columns: dict[str, list[Any]]

    def place(self, entry: int) -> str:
        """Where the user finds this entry (0-based)."""
        return f"{self.source}, {self.unit} {self.numbers[entry]}"

    def texts(self, column: str) -> list[str]:
        """The values of ``column``, every one of them a text with something in it.

        Raises:
            DataError: the first value that is missing, no string, blank, or not writable as UTF-8.
        """
        for entry, value in enumerate(self.columns[column]):
            problem = _text_problem(value)
            if problem:
                raise DataError(f"{self.place(entry)}: {column!r} {problem}; mend the row or leave it out")
        return self.columns[column]

    def labels(self, column: str, names: Sequence[str]) -> list[int]:
        """The values of ``column`` as classes 0 .. len(names) - 1; digits in a string count as their number.

        Raises:
            DataError: the first value that is missing, no whole number, or out of range.
        """
        found = []
        for entry, value in enumerate(self.columns[column]):
            if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
                value = int(value)
            problem = _label_problem(value, len(names))
            if problem:
                meaning = ", ".join(f"{label} = {name}" for label, name in enumerate(names))
                raise DataError(f"{self.place(entry)}: {column!r} {problem}; labels are {meaning}")
            found.append(value)
        return found


def require_columns(source: str, present: Iterable[str], columns: dict[str, str]) -> None:
    """Check that all columns are there.

    Args:
        source: the file or hub data set, for the message.
        present: the columns that it has.
        columns: config key -> column asked for.

    Raises:
        DataError: names the missing column, those present, and the config key to set.
    """
    there = list(present)
    if not there:
        raise DataError(f"{source}: is empty; put the data there or point data.dir to another folder")
    for key, column in columns.items():
        if column not in there:
            listed = ", ".join(repr(name) for name in there)
            raise DataError(f"{source}: has no column {column!r}, only {listed}; set task.data.{key} to one of these")


def check_columns(checks: Checks, columns: Mapping[str, object]) -> None:
    """Record a problem for each config key whose column is no name."""
    for key, column in columns.items():
        checks.require(isinstance(column, str) and bool(column), key, f"must be a column name, got {column!r}")


def _text_problem(value: object) -> str | None:
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"must be a text, got {value!r} ({type(value).__name__})"
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
    if not isinstance(value, int) or isinstance(value, bool):
        return f"must be a whole number, got {value!r}"
    if value == -1:
        return "is -1, which marks hidden labels; use a split that has its labels"
    if not 0 <= value < count:
        return f"must be from 0 to {count - 1}, got {value}"
    return None
