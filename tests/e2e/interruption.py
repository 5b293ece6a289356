"""Settings of runs that are interrupted, and comparisons of what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

EPOCHS = 2
STEPS = 4  # per epoch
TYPED = (f"trainer.max_epochs={EPOCHS}", "dual=ascent", "dual.eta=0.5")


def content(path: Path) -> Any:
    """Return the content of a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)


def same_weights(one: Path, other: Path) -> bool:
    """Return True if two checkpoints hold the same weights, bit for bit."""
    first, second = content(one)["state_dict"], content(other)["state_dict"]
    return set(first) == set(second) and all(torch.equal(value, second[name]) for name, value in first.items())


def predictions(folder: Path) -> str:
    """Return the predictions of a run folder."""
    return (folder / "predictions.jsonl").read_text()
