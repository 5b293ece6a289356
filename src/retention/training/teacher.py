"""Provide the teacher of distillation: a trained model whose outputs are cached."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from retention.errors import TrainingError
from retention.models.encoded import Batch, ModelOutput
from retention.models.retention_model import RetentionModel
from retention.training.saliency import Saliency, layer_saliency
from retention.training.token_states import TokenStates, record_token_states

log = logging.getLogger(__name__)


class TeacherOutputs(NamedTuple):
    """Everything that distillation compares, of the teacher or of the student.

    Attributes:
        output: logits and pooled state.
        states: token states after each layer; empty unless they are distilled.
        saliency: layer_idx -> saliency of the token states there, see ``layer_saliency``; empty unless requested.
    """

    output: ModelOutput
    states: list[TokenStates]
    saliency: Saliency


class Teacher:
    """A trained model in evaluation mode with a cache of its outputs.

    The output for a row does not depend on the batch, so each row is computed once: in later epochs of a run and, with
    a ``file``, in every run with the same teacher and rows it is looked up. Outputs are cached if they are one vector
    of the same width per row; others are computed each time.

    Args:
        model: the trained model; its parameters are frozen.
        file: keeps the cache between runs; None = it lasts as long as this object.
    """

    def __init__(self, model: RetentionModel, file: Path | None = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.file = file
        self._cache = self._load()
        self._unsaved = False

    def to(self, device: torch.device) -> None:
        """Move the model to the student's device, and set evaluation mode."""
        self.model.to(device).eval()

    def output(self, batch: Batch) -> ModelOutput:
        """Return logits and pooled state of the batch, from the cache if all rows are there."""
        indices = batch["index"].tolist()
        if all(index in self._cache for index in indices):
            return _stacked([self._cache[index] for index in indices], batch["index"].device)
        with torch.no_grad():
            output = self.model.outputs(batch)
        if any(bool(part.isnan().any()) for part in output if part is not None):
            raise TrainingError("the teacher's outputs have NaN values; choose another distill.teacher")
        if output.logits.dim() == 2 and self.model.head.fixed_width:
            self._cache.update(zip(indices, _rows(output), strict=True))
            self._unsaved = True
        return output

    def outputs(self, batch: Batch, *, states: bool = False, saliency_layers: Iterable[int] = ()) -> TeacherOutputs:
        """Compute everything that distillation needs of the batch in one forward pass; only plain outputs are cached.

        Args:
            batch: encoded rows.
            states: True to return the token states after each layer.
            saliency_layers: 0-based layers whose saliency is computed, by a pass with gradients.
        """
        layers = tuple(saliency_layers)
        if not states and not layers:
            return TeacherOutputs(self.output(batch), [], {})
        with record_token_states(self.model.retainer, enabled=states) as recorded:
            output, saliency = self._with_saliency(batch, layers)
        return TeacherOutputs(output, [each.detached() for each in recorded], saliency)

    def _with_saliency(self, batch: Batch, layers: tuple[int, ...]) -> tuple[ModelOutput, Saliency]:
        if not layers:
            with torch.no_grad():
                return self.model.outputs(batch), {}
        outputs: list[ModelOutput] = []

        def confidence() -> Tensor:
            outputs.append(self.model.outputs(batch))
            return self.model.head.confidence(outputs[0].logits, batch)

        saliency = layer_saliency(self.model.encoder, layers, confidence)
        logits, pooled = outputs[0]
        return ModelOutput(logits.detach(), None if pooled is None else pooled.detach()), saliency

    def _load(self) -> dict[int, ModelOutput]:
        """Read the cache file; empty if it lacks the pooled states that this model has, or is damaged."""
        if self.file is None or not self.file.exists():
            return {}
        try:
            content = torch.load(self.file, map_location="cpu", weights_only=True)
            if self.model.head.pools and "pooled" not in content:
                return {}
            return _read_rows(content)
        except Exception as error:  # for damaged files the unpickler raises errors of many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("%s: the cached teacher outputs are damaged (%s) and are computed again", self.file, reason)
            self.file.unlink(missing_ok=True)
            return {}

    def save(self) -> None:
        """Add new outputs to the cache file, beside those of other processes."""
        if self.file is None or not self._unsaved:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):
            cache = {**self._load(), **self._cache}
            content = {"index": torch.tensor(list(cache)), **_content(list(cache.values()))}
            temporary = self.file.with_name(f"{self.file.name}.tmp")
            try:
                torch.save({**content, "checksum": _checksum(content)}, temporary)
                os.replace(temporary, self.file)
            finally:
                temporary.unlink(missing_ok=True)
        self._unsaved = False


def _read_rows(content: dict[str, Tensor]) -> dict[int, ModelOutput]:
    """Return the rows of a cache file.

    Raises:
        ValueError: they are not as they were written, or NaN. Files of earlier versions have no checksum.
    """
    stored = content.pop("checksum", None)
    if stored is not None and not torch.equal(stored, _checksum(content)):
        raise ValueError("its checksum differs")
    if any(bool(values.isnan().any()) for values in content.values()):
        raise ValueError("it has NaN values")
    output = ModelOutput(content["logits"], content.get("pooled"))
    return dict(zip(content["index"].tolist(), _rows(output), strict=True))


def _checksum(content: dict[str, Tensor]) -> Tensor:
    """Compute the SHA-256 of the tensors, [32] uint8."""
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + content[name].contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _rows(output: ModelOutput) -> list[ModelOutput]:
    """Return one output per row, [C] and [D], in main memory."""
    logits = output.logits.float().cpu()
    if output.pooled is None:
        return [ModelOutput(row, None) for row in logits]
    return [ModelOutput(*row) for row in zip(logits, output.pooled.float().cpu(), strict=True)]


def _content(rows: list[ModelOutput]) -> dict[str, Tensor]:
    """Return rows as stacked tensors; ``pooled`` is left out where there is none."""
    content = {"logits": torch.stack([row.logits for row in rows])}
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return content | ({"pooled": torch.stack(pooled)} if pooled else {})


def _stacked(rows: list[ModelOutput], device: torch.device) -> ModelOutput:
    content = {name: values.to(device) for name, values in _content(rows).items()}
    return ModelOutput(content["logits"], content.get("pooled"))
