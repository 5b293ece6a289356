"""Records in JSON's own types."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retention.errors import DataError

Record = dict[str, Any]


def plain(value: Any, where: str) -> Any:
    """``value`` in JSON's own types; ``where`` names it in errors."""
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
        return [plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    raise DataError(f"{where}: a {type(value).__name__} cannot be stored in a record; convert it first")
