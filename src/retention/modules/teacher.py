"""A finished model that others learn from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from torch import Tensor

from retention.modules.saliency import Saliency, layer_saliency

if TYPE_CHECKING:
    from retention.modules.base import Batch, RetentionModule


class Teacher:
    """A finished model in evaluation mode that remembers its answers.

    What it says about a row does not depend on the batch, so a row asked before is looked up: in the later epochs of a
    run and, with a ``file``, in every run that learns from the same model on the same rows. Answers are remembered
    where they are one vector of the same width per row; others are computed each time.

    Args:
        module: the model; its parameters are frozen.
        file: keeps the answers between runs; None = they last as long as this object.
    """

    def __init__(self, module: RetentionModule, file: Path | None = None) -> None:
        self.module = module.requires_grad_(False).eval()
        self.file = file
        self._answers: dict[int, Tensor] = _load(file) if file is not None else {}
        self._unsaved = False

    def to(self, device: torch.device) -> None:
        """Move the model to the pupil's device, and back to evaluation mode."""
        self.module.to(device).eval()

    def logits(self, batch: Batch) -> Tensor:
        """Logits of the batch: [B, C], or what the task's head gives."""
        indices = batch["index"].tolist()
        if all(index in self._answers for index in indices):
            return torch.stack([self._answers[index] for index in indices]).to(batch["index"].device)
        with torch.no_grad():
            logits: Tensor = self.module(batch)
        if logits.dim() == 2 and self.module.fixed_width:
            self._answers.update(zip(indices, logits.float().cpu(), strict=True))
            self._unsaved = True
        return logits

    def explain(self, batch: Batch, layers: tuple[int, ...]) -> Saliency:
        """Logits, and what they rest on: layer_idx -> [B, T] float >= 0, gradient norms of the token states."""

        def answer() -> tuple[Tensor, Tensor]:
            logits = self.module(batch)
            return logits, self.module.answer_score(logits, batch)

        return layer_saliency(self.module.encoder, layers, answer)

    def save(self) -> None:
        """Add new answers to the file, beside those that other processes have put there."""
        if self.file is None or not self._unsaved:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):
            everything = {**_load(self.file), **self._answers}
            content = {"index": torch.tensor(list(everything)), "logits": torch.stack(list(everything.values()))}
            temporary = self.file.with_name(f"{self.file.name}.{os.getpid()}")
            torch.save(content, temporary)
            os.replace(temporary, self.file)
        self._unsaved = False


def _load(file: Path) -> dict[int, Tensor]:
    if not file.exists():
        return {}
    content = torch.load(file, map_location="cpu", weights_only=True)
    return dict(zip(content["index"].tolist(), content["logits"], strict=True))
