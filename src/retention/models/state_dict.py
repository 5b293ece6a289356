"""Read the weights of checkpoints, those of earlier versions included."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PREFIX = "model."  # of the RetentionModel in the Lightning module

# Before version 0.2 model and training loop were one class, and a head's parts were attributes of that class.
_RENAMED_HEAD_PARTS = {"head": "output", "focus": "token_scorer", "left_early": "dropped_offset"}


def model_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint with the keys of ``RetentionModel``.

    Args:
        state_dict: of the Lightning module, of this or an earlier version.
    """
    if any(key.startswith(PREFIX) for key in state_dict):
        return {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
    return {_renamed(key): value for key, value in state_dict.items()}


def _renamed(key: str) -> str:
    part, _, rest = key.partition(".")
    if part in ("encoder", "policy"):
        return key
    return ".".join(filter(None, ("head", _RENAMED_HEAD_PARTS.get(part, part), rest)))
