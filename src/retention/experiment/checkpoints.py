"""Read checkpoint files and load their weights into a model."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retention.errors import CheckpointError, first_line
from retention.models.layer_selection import state_of_layers
from retention.models.retention_model import RetentionModel
from retention.models.state_dict import model_state

_SCORERS = "policy.scorers."


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        CheckpointError: there is no such file, or it is not a checkpoint of this project.
    """
    file = Path(path)
    if file.is_dir() and (file / "checkpoints" / "last.ckpt").is_file():
        message = f"{file}: is a run folder; pass its checkpoint, {file / 'checkpoints' / 'last.ckpt'}"
        raise CheckpointError(message)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint; pass a file such as <run folder>/checkpoints/last.ckpt")
    try:
        _check_sums(file)
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # for other files the unpickler raises errors of many types
        reason = first_line(error)
        raise CheckpointError(f"{file}: cannot be read as a checkpoint ({reason})") from error
    complete = isinstance(content, dict) and isinstance(content.get("state_dict"), dict)
    parameters = content.get("hyper_parameters") if complete else None
    if not isinstance(parameters, dict) or "config" not in parameters:
        raise CheckpointError(f"{file}: is not a checkpoint of this project; it has no configuration")
    _check_state(content["state_dict"], file)
    return content


def encoder_folder(path: str | Path) -> str:
    """Return the folder beside ``checkpoints/`` that holds the encoder configuration and the tokenizer."""
    return str(Path(path).resolve().parent.parent / "encoder")


def load_weights(
    model: RetentionModel,
    content: dict[str, Any],
    path: str | Path,
    *,
    policy: bool,
    other_budget: bool = False,
    layers: Sequence[int] | None = None,
) -> None:
    """Copy the weights of a checkpoint into a model.

    Args:
        model: model that gets the weights.
        content: of ``read_checkpoint``.
        path: named in errors.
        policy: True to load the retention policy too; False starts a new policy on trained encoder and head.
        other_budget: True if scorers that have no gate to act on here may be left out, as when a model is tested at
            another keep ratio.
        layers: layers of a deeper checkpoint that the encoder consists of; None = the checkpoint has the same layers.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    state = model_state(content["state_dict"])
    if layers is not None:
        state = state_of_layers(state, model.encoder, layers)
    loaded = {key: value for key, value in state.items() if policy or not _is_policy(key)}
    current = model.state_dict()
    required = {key for key in current if policy or not _is_policy(key)}
    missing = required - loaded.keys()
    if other_budget:
        _check_scorers(missing, loaded, path)
    problems = [f"missing {key}" for key in sorted(missing)]
    unexpected = {key for key in loaded.keys() - required if not (other_budget and key.startswith(_SCORERS))}
    problems += [f"unexpected {key}" for key in sorted(unexpected)]
    problems += [
        f"{key} is {tuple(loaded[key].shape)} there and {tuple(current[key].shape)} here"
        for key in sorted(required & loaded.keys())
        if loaded[key].shape != current[key].shape
    ]
    problems += [
        f"{key} is {loaded[key].dtype} there and {current[key].dtype} here"
        for key in sorted(required & loaded.keys())
        if loaded[key].is_floating_point() != current[key].is_floating_point()
        or (loaded[key].dtype == torch.bool) != (current[key].dtype == torch.bool)
    ]
    if problems:
        listed = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise CheckpointError(
            f"{path}: is a checkpoint of another model ({listed}); use the backbone, task and policy it was made with"
        )
    model.load_state_dict(loaded, strict=False)


def _check_sums(file: Path) -> None:
    """Raise ``CheckpointError`` if a part of a checkpoint differs from the checksum that was stored with it."""
    if not zipfile.is_zipfile(file):  # torch reports what else it cannot read
        return
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"{file}: is damaged ({damaged} differs from its checksum); copy the file again")


def _check_state(state: dict[Any, Any], file: Path) -> None:
    """Raise ``CheckpointError`` unless all weights are dense tensors of finite numbers."""
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{file}: {key!r} is not a weight, got a {type(value).__name__}")
        dense = value.layout == torch.strided and value.device.type != "meta" and not value.is_quantized
        if not dense or value.is_complex():
            kind = f"{value.dtype}, {value.layout}, {value.device.type}"
            raise CheckpointError(f"{file}: {key} must be a dense tensor of real numbers, got {kind}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{file}: {key} has values that are not finite; the model cannot be used")


def _is_policy(key: str) -> bool:
    return key.startswith("policy.")


def _check_scorers(missing: set[str], loaded: Mapping[str, Any], path: str | Path) -> None:
    """Raise ``CheckpointError`` if the checkpoint lacks scorers that another keep ratio needs."""
    layers = sorted({int(key.split(".")[2]) for key in missing if key.startswith(_SCORERS)})
    if layers and any(key.startswith(_SCORERS) for key in loaded):
        raise CheckpointError(
            f"{path}: has no scorer after layer {', '.join(map(str, layers))}, where nothing was removed at the keep "
            "ratios of its training; pass a retention.rho like those, or train it for more (budgets.sampled, "
            "budgets.low, budgets.high)"
        )
