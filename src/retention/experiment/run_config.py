"""Read the configuration in a run folder as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from retention.records.legacy import upgrade_config

CONFIG = "config.yaml"  # written when a run starts


def read_run_config(file: Path) -> dict[str, Any] | None:
    """Return the ``config.yaml`` of a run folder with present key names; None if it is missing or cannot be read."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))  # plain data: references in it are not followed
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return upgrade_config(config) if isinstance(config, dict) else None
