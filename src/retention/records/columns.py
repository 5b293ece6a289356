"""Convert rows to columns of equal length and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return one mapping per row."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def as_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return one list per key; ``rows`` is not empty and all rows have the same keys."""
    return {name: [row[name] for row in rows] for name in rows[0]}
