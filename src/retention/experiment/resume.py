"""Whether a run was already carried out in its folder, so that a restarted sweep does only what is left."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retention.records import Record, read_records

CONFIG = "config.yaml"  # written when a run starts
RECORD = "record.json"  # written when everything else is done
_REPLACED = "record.replaced.json"
_INPUTS = ("init", "ckpt", "distill.teacher")  # checkpoints, which a run may have written anew since
_INCIDENTAL = {"record"}  # where else the record goes
_SHOWN = 3

log = logging.getLogger(__name__)


def finished_record(config: DictConfig) -> Record | None:
    """The record that this very run left in its folder, None if it has to be carried out.

    A run is finished when its folder holds a record, every resolved setting is as it was then (the folder itself may
    have been moved), and none of the checkpoints it started from is newer. Otherwise the log says what differs.

    Raises:
        DataError: the folder's record cannot be read.
    """
    folder = Path(config.paths.run_dir)
    if not (folder / RECORD).exists():
        return None
    reasons = [*_changes(folder / CONFIG, config), *_newer_inputs(folder / RECORD, config)]
    if reasons:
        more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        told = "; ".join(reasons[:_SHOWN]) + more
        log.warning("%s holds the record of another run (%s): running again", folder, told)
        return None
    [record] = read_records([folder / RECORD])
    log.info("%s: already finished, not run again (to repeat it, remove the folder)", folder)
    return record


def put_record_aside(folder: Path) -> None:
    """Make sure that a folder's record never stands beside the configuration or checkpoint of a later run."""
    if (folder / RECORD).exists():
        os.replace(folder / RECORD, folder / _REPLACED)


def _changes(file: Path, config: DictConfig) -> list[str]:
    """``key: before -> now`` for every resolved setting that differs from those in a ``config.yaml``."""
    if not file.exists():
        return [f"{file.name} is missing"]
    before = OmegaConf.load(file)
    moved = config.copy()
    moved.paths.run_dir = OmegaConf.select(before, "paths.run_dir")
    now = OmegaConf.create(OmegaConf.to_yaml(moved, resolve=True))  # through YAML, as what it is compared with
    old, new = _settings(OmegaConf.to_container(before)), _settings(OmegaConf.to_container(now))
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted(old.keys() | new.keys())
        if key not in _INCIDENTAL and not (key in old and key in new and old[key] == new[key])
    ]


def _settings(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; an empty mapping is a value."""
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
