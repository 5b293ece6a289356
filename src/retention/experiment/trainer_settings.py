"""Check the settings of the Lightning trainer before anything is loaded."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from retention.errors import Checks, require, require_number

_OURS = {  # arguments that the run itself passes -> what to use instead
    "callbacks": "add a node to callbacks: +callbacks.<name>={_target_: ...}",
    "logger": "choose logger=csv, logger=tensorboard, logger=wandb or logger=none",
    "default_root_dir": "set hydra.run.dir",
    "enable_checkpointing": "remove the checkpoints with ~callbacks.checkpoint",
    "enable_model_summary": "leave it out",
    "num_sanity_val_steps": "leave it out",
    "use_distributed_sampler": "leave it out, batches are distributed by the data module",
}
_PARTIAL = {  # arguments that leave out rows -> what to use instead, so that the record counts the rows in use
    "fast_dev_run": "data.train_size, data.test_size and task.epochs=1",
    "overfit_batches": "data.train_size",
    "limit_train_batches": "data.train_size",
    "limit_val_batches": "task.data.val_size",
    "limit_test_batches": "data.test_size",
    "limit_predict_batches": "data.test_size",
}
_STRATEGIES = {  # beginnings of names -> what to use instead
    "ddp_spawn": "its processes would not have the command's configuration; use ddp",
    "ddp_notebook": "its processes would not have the command's configuration; use ddp",
    "fsdp_": "is not supported; use fsdp",
    "fsdp2": "is not supported; use fsdp",
}
_FULL = (None, False, 1.0)  # values with which such an argument leaves out nothing; a number counts as a share
_MAX = 2**31 - 1


def check_trainer(settings: Any) -> None:
    """Check the settings of the node ``trainer``; types and values that are not listed here are left to Lightning.

    Raises:
        ConfigError: all problems, with keys relative to the node.
    """
    if not isinstance(settings, Mapping):
        require(False, "", f"must be a node with the arguments of Lightning's Trainer, got {settings!r}")
    checks = Checks()
    valid = list(inspect.signature(pl.Trainer).parameters)
    for key, value in settings.items():
        checks.gather(lambda key=str(key), value=value: _check(key, value, valid))  # type: ignore[misc]
    epochs, steps, max_time = (settings.get(key) for key in ("max_epochs", "max_steps", "max_time"))
    endless = epochs in (None, -1) and steps in (None, -1) and max_time is None
    checks.require(not endless, "max_epochs", f"{epochs} trains for ever; set it to 1 or more, or set max_steps")
    checks.finish()


def _check(key: str, value: Any, valid: list[str]) -> None:
    if key not in valid:
        close = difflib.get_close_matches(key, valid, n=1)
        require(False, key, f"is no argument of Lightning's Trainer{f'; did you mean {close[0]}?' if close else ''}")
    require(key not in _OURS, key, f"cannot be set here; {_OURS.get(key)}")
    if key in _PARTIAL:
        full = any(value is each or (isinstance(value, float) and value == each) for each in _FULL)
        off = key == "overfit_batches" and value in (0, 0.0)
        message = f"{value} leaves out rows that the record would count; use {_PARTIAL[key]}"
        require(full or off, key, message)
    elif key in ("max_epochs", "max_steps"):
        unlimited = value is None if key == "max_epochs" else value in (None, -1)
        _require_whole(key, value, low=1, special=unlimited or value == -1)
    elif key in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        _require_whole(key, value, low=1, special=value is None and key != "accumulate_grad_batches")
    elif key in ("log_every_n_steps", "min_epochs", "min_steps", "reload_dataloaders_every_n_epochs"):
        _require_whole(key, value, low=0, special=value is None)
    elif key == "strategy":
        refused = [use for name, use in _STRATEGIES.items() if str(value).startswith(name)]
        require(not refused, key, f"{value}: {''.join(refused[:1])}")
    elif key == "gradient_clip_val":
        require_number(key, value, above=0, name="null (off) or the largest norm")


def _require_whole(key: str, value: Any, *, low: int, special: bool) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and low <= value <= _MAX
    require(whole or special, key, f"must be a whole number in [{low}, {_MAX}], got {value!r}")
