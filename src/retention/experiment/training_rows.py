"""Keep the description of the rows that a model was trained with, for the records of runs that only test it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from retention.data.base import RetentionData
from retention.errors import DataError
from retention.records.run_folders import RECORD, VALIDATION_RECORD, run_records

_KEY = "training_rows"  # in checkpoints
_ROLES = ("train", "val")


class TrainingRows(Callback):
    """Store the numbers of training and validation rows in every checkpoint.

    Args:
        data: of the training.
    """

    def __init__(self, data: RetentionData) -> None:
        self._data = data
        self._rows: dict[str, Any] | None = None  # counted once

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._rows is None:
            self._rows = _counts(self._data.describe())
        checkpoint[_KEY] = self._rows


def training_rows(content: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the numbers of rows that a checkpoint was trained with: key of ``describe`` -> number, or role -> number.

    Checkpoints of earlier versions have none; they are read from the record in the run folder.

    Args:
        content: of ``read_checkpoint``.
        path: of the checkpoint.

    Returns:
        Numbers of ``train`` and ``val``; empty if they are not known.
    """
    stored = content.get(_KEY)
    if isinstance(stored, Mapping):
        return _counts(stored)
    folder = Path(path).resolve().parent.parent
    for file in (folder / RECORD, folder / VALIDATION_RECORD):
        try:
            data = run_records(file)[-1].get("data") if file.exists() else None
        except DataError:  # of another program, or damaged
            continue
        if isinstance(data, Mapping):
            return _counts(data)
    return {}


def with_training_rows(tested: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of test rows with the numbers of training and validation rows.

    Args:
        tested: of ``RetentionData.describe``.
        trained: of ``training_rows``.
    """
    merged = dict(tested)
    for key, counts in trained.items():
        if key in _ROLES:
            merged[key] = counts
        elif isinstance(tested.get(key), Mapping):
            merged[key] = {**tested[key], **counts}
    return merged


def _counts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a description says of training and validation rows, such as ``{"train": 8, "questions": {...}}``."""
    counts: dict[str, Any] = {role: data[role] for role in _ROLES if _is_count(data.get(role))}
    for key, by_role in data.items():
        if isinstance(key, str) and key not in _ROLES and isinstance(by_role, Mapping):
            kept = {role: by_role[role] for role in _ROLES if _is_count(by_role.get(role))}
            counts |= {key: kept} if kept else {}
    return counts


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
