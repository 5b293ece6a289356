"""Provide the teacher of distillation: a trained model whose outputs are cached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from retention.errors import TrainingError
from retention.models.encoded import Batch, ModelOutput
from retention.models.retention_model import RetentionModel
from retention.training.cache_file import load_cached, save_tensors
from retention.training.saliency import Saliency, layer_saliency
from retention.training.saliency_cache import SaliencyCache
from retention.training.token_states import TokenStates, record_token_states

_CACHED = "teacher outputs"


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
    a ``file``, in every run with the same teacher and rows it is looked up. Outputs are kept as far as the head has
    them as one vector per row (``Head.logit_rows``); others are computed each time. With them saliency is kept, in a
    file of its own; token states never are.

    Args:
        model: the trained model; its parameters are frozen.
        file: keeps the cache between runs; None = it lasts as long as this object.
    """

    def __init__(self, model: RetentionModel, file: Path | None = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.file = file
        self._cache = self._load()
        self._saliency = SaliencyCache(None if file is None else _saliency_file(file, model.head.saliency_settings))
        self._unsaved = False

    @property
    def keeps_outputs(self) -> bool:
        """Return True if outputs of rows that were seen are looked up; known after the first batch."""
        return bool(self._cache)

    def to(self, device: torch.device) -> None:
        """Move the model to the student's device, and set evaluation mode."""
        self.model.to(device).eval()

    def output(self, batch: Batch) -> ModelOutput:
        """Return logits and pooled state of the batch, from the cache if all rows are there."""
        cached = self._cached(batch)
        if cached is not None:
            return cached
        with torch.no_grad():
            output = self.model.outputs(batch)
        self._keep(batch, output)
        return output

    def _cached(self, batch: Batch) -> ModelOutput | None:
        indices = batch["index"].tolist()
        if not all(index in self._cache for index in indices):
            return None
        rows, device = [self._cache[index] for index in indices], batch["index"].device
        logits = self.model.head.logits_of_rows([row.logits for row in rows], batch).to(device)
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return ModelOutput(logits, torch.stack(pooled).to(device) if pooled else None)

    def _keep(self, batch: Batch, output: ModelOutput) -> None:
        if not all(bool((part < torch.inf).all()) for part in output if part is not None):  # false for NaN as well
            raise TrainingError("the teacher's outputs are not all finite; choose another distill.teacher")
        rows = self.model.head.logit_rows(output.logits, batch)
        if rows is not None:
            logits = torch.split(torch.cat(rows).float().cpu(), [len(row) for row in rows])  # one transfer
            self._cache.update(zip(batch["index"].tolist(), _rows(logits, output.pooled), strict=True))
            self._unsaved = True

    def outputs(self, batch: Batch, *, states: bool = False, saliency_layers: Iterable[int] = ()) -> TeacherOutputs:
        """Compute everything that distillation needs of the batch in one forward pass; states are not cached.

        Args:
            batch: encoded rows.
            states: True to return the token states after each layer.
            saliency_layers: 0-based layers whose saliency is computed, by a pass with gradients.
        """
        layers = tuple(saliency_layers)
        if not states and not layers:
            return TeacherOutputs(self.output(batch), [], {})
        output = self._cached(batch)
        saliency = self._saliency.get(batch["index"].tolist(), batch["attention_mask"], layers)
        if not states and output is not None and saliency is not None:
            return TeacherOutputs(output, [], saliency)
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
        output = ModelOutput(logits.detach(), None if pooled is None else pooled.detach())
        self._keep(batch, output)
        self._saliency.add(batch["index"].tolist(), batch["attention_mask"], saliency)
        return output, saliency

    def _load(self) -> dict[int, ModelOutput]:
        """Read the cache file; empty if it lacks the pooled states that this model has, or is damaged."""
        return load_cached(self.file, _CACHED, self._rows_of) or {}

    def _rows_of(self, content: dict[str, Tensor]) -> dict[int, ModelOutput]:
        if self.model.head.pools and "pooled" not in content:
            return {}
        lengths = content.get("length")
        logits = content["logits"] if lengths is None else torch.split(content["logits"], lengths.tolist())
        return dict(zip(content["index"].tolist(), _rows(tuple(logits), content.get("pooled")), strict=True))

    def save(self) -> None:
        """Add new outputs to the cache file, beside those of other processes."""
        self._saliency.save()
        if self.file is None or not self._unsaved:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):
            cache = {**self._load(), **self._cache}
            save_tensors(self.file, {"index": torch.tensor(list(cache)), **_content(list(cache.values()))})
        self._unsaved = False


def _saliency_file(file: Path, settings: str) -> Path:
    return file.with_name(f"{file.stem}-saliency{settings and f'-{settings}'}{file.suffix}")


def _rows(logits: Sequence[Tensor], pooled: Tensor | None) -> list[ModelOutput]:
    """Return one output per row, [C] and [D], in main memory."""
    states = [None] * len(logits) if pooled is None else list(pooled.float().cpu())
    return [ModelOutput(row, state) for row, state in zip(logits, states, strict=True)]


def _content(rows: list[ModelOutput]) -> dict[str, Tensor]:
    """Return rows as tensors; logits of different lengths one after the other, with ``length``; no ``pooled`` if none.

    A file without ``length`` has logits [N, C].
    """
    logits = [row.logits for row in rows]
    lengths = [len(row) for row in logits]
    if len(set(lengths)) > 1:
        content = {"logits": torch.cat(logits), "length": torch.tensor(lengths)}
    else:
        content = {"logits": torch.stack(logits)}
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return content | ({"pooled": torch.stack(pooled)} if pooled else {})
