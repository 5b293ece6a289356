"""Recognize checkpoints whose training state is damaged, from which a training would go on differently."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retention.errors import CheckpointError

_DIGEST = "training_state_digest"
_OTHERS = (_DIGEST, "state_dict", "hyper_parameters")  # checked when the model is loaded
_KINDS: Mapping[str, type] = {  # what Lightning stores in every checkpoint
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}


def add_digest(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with a digest of its training state: loops, optimizers, schedules, callbacks, random state.

    Args:
        content: of the checkpoint; is not changed.
    """
    return {**content, _DIGEST: _digest(content)}


def check_training_state(content: Mapping[str, Any], path: str | Path) -> None:
    """Raise ``CheckpointError`` if the training state is incomplete or was changed after it was written.

    Checkpoints of earlier versions have no digest; only the parts that every checkpoint has are checked.

    Args:
        content: of ``read_checkpoint``.
        path: named in the error.
    """
    wrong = [key for key, kind in _KINDS.items() if not isinstance(content.get(key), kind)]
    if not wrong and (_DIGEST not in content or content[_DIGEST] == _digest(content)):
        return
    reason = f"{', '.join(wrong)} missing or of another type" if wrong else "it was changed after it was written"
    raise CheckpointError(
        f"{path}: the state of its training is damaged ({reason}), so it cannot be resumed; resume from another "
        f"checkpoint, or start a new training from its model with init=<checkpoint>"
    )


def _digest(content: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    _update(digest, {key: value for key, value in content.items() if key not in _OTHERS})
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Add a value to a digest, with its type and, for containers, their length."""
    if isinstance(value, Tensor):
        stored = value.detach().cpu().contiguous()
        digest.update(f"tensor {stored.dtype} {tuple(stored.shape)}".encode())
        digest.update(stored.reshape(-1).view(torch.uint8).numpy().tobytes() if stored.numel() else b"")
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for key, each in value.items():
            _update(digest, key)
            _update(digest, each)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for each in value:
            _update(digest, each)
    else:
        plain = value is None or isinstance(value, bool | int | float | str | bytes)
        digest.update(f"{type(value).__name__} {value!r};".encode() if plain else type(value).__name__.encode())
