"""Class names that local files bring along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retention.errors import Checks

LABELS_FILE = "labels.json"


def local_label_names(directory: str | None, checks: Checks) -> list[str] | None:
    """The class names in ``labels.json`` of a folder, in label order; None if there is no such file.

    A folder that is missing is no problem here; reading its rows will tell.
    """
    path = Path(directory).expanduser() / LABELS_FILE if isinstance(directory, str) and directory else None
    if path is None or not path.is_file():
        return None
    try:
        names: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        checks.require(False, "dir", f"{path}: cannot be read as JSON ({error}); write a list of class names into it")
        return None
    named = isinstance(names, list) and len(names) >= 2 and all(isinstance(name, str) and name for name in names)
    if not checks.require(
        named and len(set(names)) == len(names),
        "dir",
        f"{path}: must be a list of at least 2 different class names, in label order, got {names!r}",
    ):
        return None
    return list(names)
