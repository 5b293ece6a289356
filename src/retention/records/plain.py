"""Convert records to plain JSON types."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retention.errors import DataError

Record = dict[str, Any]


def plain(value: Any, where: str) -> Any:
    """Return ``value`` in plain JSON types; numbers that are not finite become None.

    Args:
        value: nested mappings, sequences and scalars.
        where: name of the value in errors.

    Raises:
        DataError: a value has no JSON form.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise DataError(f"{where}: a {type(value).__name__} cannot be stored in a record; convert it first")
