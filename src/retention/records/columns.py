"""Rows as columns and back; columns are equally long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns as one mapping per row."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def as_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows with the same keys, at least one, as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}
