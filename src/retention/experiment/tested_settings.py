"""Refuse settings of a command with ``mode=test`` that only a training can change, or that would score trained rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retention.errors import Checks

_TRAINING = (
    *("optimizer", "phases", "budgets", "distill", "dual", "retention.dual"),
    *("task.lr", "task.epochs", "task.compare", "data.train_size", "task.data.train_size", "task.data.val_size"),
    *("task.data.batch_size", "task.data.negatives", "task.data.distractor_tokens"),
)
_SEEDS = ("seed", "data.seed", "task.data.seed")
_SPLITS = ("task.data.splits", "task.data.test_queries")
_TEST_SIZES = ("data.test_size", "task.data.test_size")
TEACHER = "distill.teacher"  # tasks without labels compare a tested model with it


def check_tested_settings(stored: DictConfig, config: DictConfig, names: Sequence[str]) -> None:
    """Check what was typed with ``mode=test`` for the configuration of the checkpoint.

    Args:
        stored: configuration of the checkpoint.
        config: the composed configuration of this command.
        names: dotted keys that were typed, without those that always come from the command.

    Raises:
        ConfigError: all keys that a test cannot change.
    """
    checks = Checks()
    for name in names:
        reason = None if _is_stored(name, stored, config) else _reason(name, stored, config, names)
        checks.require(reason is None, name, reason or "")
    checks.finish()


def _reason(name: str, stored: DictConfig, config: DictConfig, names: Collection[str]) -> str | None:
    """Return why a key cannot be typed with ``mode=test``, with the remedy; None if it can."""
    other_rows = _reads_other_rows(stored, config, names)
    file = "texts=<other file>" if _is_of_texts(stored) else "data.dir=<folder with other rows>"
    if name in _SEEDS:
        remedy = "; for other random choices of the policy, pass retention.seed" if "seed" in stored.retention else ""
        return (
            f"the checkpoint was trained with its seed, which tells it from others; leave it out with mode=test{remedy}"
        )
    if name == "task.data.folds":
        return (
            "the checkpoint was trained on the rows of all folds but its own, so other folds would score trained rows; "
            "leave it out with mode=test"
        )
    if _is_in(name, _SPLITS):
        message = (
            "with other splits, rows would be scored that the checkpoint was trained on; leave it out with mode=test"
        )
        return None if other_rows else f"{message}, or pass {file} as well"
    if _is_of_texts(stored) and not other_rows and name in _TEST_SIZES and not _is_held_out(name, stored, config):
        return (
            "test rows are held out of the texts, so a larger number includes rows that the checkpoint was trained on; "
            f"lower it, or pass {file} as well"
        )
    if name == "task.data.val_size" and _is_of_texts(stored) and other_rows:
        return None  # other texts are divided anew
    if name != TEACHER and _is_in(name, _TRAINING):
        return "it acts on a training, and the checkpoint is trained already; leave it out with mode=test"
    fixed = "." not in name or (name.startswith("backbone.") and name != "backbone.attn_implementation")
    if (fixed and name != "texts") or name == "task.data":
        return "the checkpoint determines it; leave it out with mode=test"
    return None


def _is_stored(name: str, stored: DictConfig, config: DictConfig) -> bool:
    """Return True if what was typed is what the checkpoint has, so that a command can be repeated with ``mode=test``.

    A class that is typed as it is stored is vouched for, see ``stored.StoredTargets``.
    """
    missing = object()
    before = OmegaConf.select(stored, name, default=missing)
    return before is not missing and bool(before == OmegaConf.select(config, name))


def _is_in(name: str, nodes: Sequence[str]) -> bool:
    return any(name == node or name.startswith(f"{node}.") for node in nodes)


def _is_of_texts(stored: DictConfig) -> bool:
    """Return True if training and test rows are parts of one file."""
    return "texts" in stored.task.data


def _is_held_out(name: str, stored: DictConfig, config: DictConfig) -> bool:
    """Return True if a number of test rows is not above the number that the training held out."""
    requested = OmegaConf.select(config, name)
    size = stored.task.data.get("test_size")
    held_out: Any = stored.task.data.get("val_size") if size is None else size
    return requested is not None and isinstance(held_out, int) and isinstance(requested, int) and requested <= held_out


def _reads_other_rows(stored: DictConfig, config: DictConfig, names: Collection[str]) -> bool:
    """Return True if the command names another folder or file of rows than the training."""
    key = "texts" if _is_of_texts(stored) else "data.dir"
    given, before = OmegaConf.select(config, key), OmegaConf.select(stored, key)
    if key not in names or not isinstance(given, str):
        return False
    return before is None or Path(given).expanduser().resolve() != Path(before).expanduser().resolve()
