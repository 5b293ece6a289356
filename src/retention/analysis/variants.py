"""Telling runs of one policy apart by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# where a run writes, what it runs on and its seed are no part of the method
_OUTSIDE = frozenset({"paths", "logger", "callbacks", "hydra"})
_INCIDENTAL = frozenset({"seed", "dir", "dirpath", "save_dir", "accelerator", "devices", "num_workers"})
_TOLD = frozenset({"retention.rho"})  # a column of its own; a dense model was asked for any share and keeps everything


def variants(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One label per record: its settings that are not the same in all of them, ``key=value`` each; "" if none.

    Seeds, paths and the machine's settings do not count, so that repetitions of one run share a label.

    Args:
        records: result records with a resolved ``config``.
    """
    settings = [_settings(record.get("config") or {}) for record in records]
    keys = sorted({key for flat in settings for key in flat})
    varying = [key for key in keys if len({_word(flat.get(key)) for flat in settings}) > 1]
    return [", ".join(f"{key}={_word(flat.get(key))}" for key in varying) for flat in settings]


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of the settings that define the method."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in _INCIDENTAL or (not prefix and key in _OUTSIDE):
            continue
        if isinstance(value, Mapping):
            flat |= _settings(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" in _TOLD:
            continue
        elif not (isinstance(value, str) and "/" in value):  # a path, such as that of the seed's own teacher
            flat[f"{prefix}{key}"] = value
    return flat


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
