"""Reading checkpoints: the configuration they were made with, and weights for another module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from retention.errors import CheckpointError
from retention.records.legacy import upgrade_config


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        CheckpointError: there is no such file, or it is not a checkpoint of this project.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint; pass a file such as <run folder>/checkpoints/last.ckpt")
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no checkpoint the unpickler raises whatever it stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: cannot be read as a checkpoint ({reason})") from error
    ours = isinstance(content, dict) and "state_dict" in content
    if not ours or "config" not in content.get("hyper_parameters", {}):
        raise CheckpointError(f"{file}: is not a checkpoint of this project; it does not hold its configuration")
    return content


def checkpoint_config(content: dict[str, Any]) -> DictConfig:
    """The configuration (unresolved) that a checkpoint was trained with."""
    config: DictConfig = OmegaConf.create(upgrade_config(content["hyper_parameters"]["config"]))
    return config


def encoder_folder(path: str | Path) -> str:
    """The folder with encoder configuration and tokenizer that belongs to a checkpoint of a run folder."""
    return str(Path(path).resolve().parent.parent / "encoder")


def load_weights(
    module: nn.Module, content: dict[str, Any], path: str | Path, *, policy: bool, other_budget: bool = False
) -> None:
    """Copy the weights of a checkpoint into a module.

    Args:
        module: a ``RetentionModule``.
        content: of ``read_checkpoint``.
        path: named in errors.
        policy: whether the retention policy is loaded too; False starts a new policy on trained encoder and head.
        other_budget: whether scorers that are idle here may be left out, as when a model is tested at another share.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    loaded = {name: value for name, value in content["state_dict"].items() if policy or not name.startswith("policy.")}
    own = module.state_dict()
    wanted = {name for name in own if policy or not name.startswith("policy.")}
    without = sorted(name for name in wanted - loaded.keys() if name.startswith("policy.scorers."))
    if other_budget and without and any(name.startswith("policy.scorers.") for name in loaded):
        gates = ", ".join(sorted({name.split(".")[2] for name in without}, key=int))
        raise CheckpointError(
            f"{path}: has no scorer after layer {gates}, where nothing was removed at the budgets of its training; "
            "pass a retention.rho like those, or train it for more budgets (budgets.sampled, budgets.low, budgets.high)"
        )
    problems = [f"missing {name}" for name in sorted(wanted - loaded.keys())]
    unexpected = loaded.keys() - wanted
    if other_budget:
        unexpected = {name for name in unexpected if not name.startswith("policy.scorers.")}
    problems += [f"unexpected {name}" for name in sorted(unexpected)]
    problems += [
        f"{name} is {tuple(loaded[name].shape)} there and {tuple(own[name].shape)} here"
        for name in sorted(wanted & loaded.keys())
        if loaded[name].shape != own[name].shape
    ]
    if problems:
        listed = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise CheckpointError(
            f"{path}: is a checkpoint of another model ({listed}); use the backbone, task and policy it was made with"
        )
    module.load_state_dict(loaded, strict=False)
