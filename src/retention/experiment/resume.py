"""Recognize finished runs, so that a restarted sweep runs only what is left."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from retention.records import Record, read_records
from retention.records.legacy import upgrade_config

CONFIG = "config.yaml"  # written when a run starts
RECORD = "record.json"  # written last
_REPLACED = "record.replaced.json"
_INPUTS = ("init", "ckpt", "distill.teacher")  # checkpoints, which may have been overwritten since
_INCIDENTAL = {"record"}  # another file that the record is appended to
_MAX_SHOWN = 3

log = logging.getLogger(__name__)


def finished_record(config: DictConfig) -> Record | None:
    """Return the record that this run left in its folder; None if it has to be run.

    A run is finished if its folder holds a record, every resolved setting is unchanged (the folder itself may have
    been moved), and none of the checkpoints it started from is newer. Otherwise the differences are logged.

    Raises:
        DataError: the folder's record cannot be read.
    """
    folder = Path(config.paths.run_dir)
    if not (folder / RECORD).exists():
        return None
    reasons = [*_changes(folder / CONFIG, config), *_newer_inputs(folder / RECORD, config)]
    if reasons:
        more = f" and {len(reasons) - _MAX_SHOWN} more" if len(reasons) > _MAX_SHOWN else ""
        listed = "; ".join(reasons[:_MAX_SHOWN]) + more
        log.warning("%s holds the record of another run (%s): running again", folder, listed)
        return None
    [record] = read_records([folder / RECORD])
    log.info("%s: already finished, not run again (to repeat it, remove the folder)", folder)
    return record


def put_record_aside(folder: Path) -> None:
    """Rename the record of an earlier run, so that it never lies beside files of a later run."""
    if (folder / RECORD).exists():
        os.replace(folder / RECORD, folder / _REPLACED)


def _changes(file: Path, config: DictConfig) -> list[str]:
    """Return ``key: before -> now`` for every resolved setting that differs from a ``config.yaml``."""
    if not file.exists():
        return [f"{file.name} is missing"]
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))  # plain data: references in it are not followed
    except (yaml.YAMLError, UnicodeDecodeError):
        before = None
    if not isinstance(before, dict):
        return [f"{file.name} cannot be read"]
    paths = before.get("paths")
    run_dir = paths.get("run_dir") if isinstance(paths, dict) else None
    if not isinstance(run_dir, str) or "${" in run_dir:  # the file of a run is resolved
        return [f"{file.name} has no paths.run_dir"]
    moved = config.copy()
    moved.paths.run_dir = run_dir
    now = yaml.safe_load(OmegaConf.to_yaml(moved, resolve=True))  # through YAML, like ``before``
    old, new = _settings(upgrade_config(before)), _settings(now)
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted(old.keys() | new.keys())
        if key not in _INCIDENTAL and not (key in old and key in new and old[key] == new[key])
    ]


def _settings(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; an empty mapping is a value."""
    if not isinstance(node, Mapping) or (prefix and not node):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _settings(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _newer_inputs(record: Path, config: DictConfig) -> list[str]:
    finished = record.stat().st_mtime
    paths = {key: OmegaConf.select(config, key) for key in _INPUTS}
    return [
        f"{key}: {path} was written since"
        for key, path in paths.items()
        if path is not None and Path(path).exists() and Path(path).stat().st_mtime > finished
    ]
