"""A finished model that others learn from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from retention.training.saliency import Saliency, layer_saliency
from retention.training.token_states import TokenStates, recorded

if TYPE_CHECKING:
    from retention.models.encoded import Batch
    from retention.training.module import RetentionModule


class Answer(NamedTuple):
    """What a teacher says about a batch.

    Attributes:
        logits: [B, C], or what the task's head gives.
        pooled: [B, D], the state that they are read from; None where the head does not pool.
    """

    logits: Tensor
    pooled: Tensor | None


class TeacherOutputs(NamedTuple):
    """What there is to learn of a batch.

    Attributes:
        answer: of the teacher, or of the pupil.
        states: of the tokens after each layer; empty unless they are to be learned.
        saliency: layer_idx -> what the answer rests on there, see ``layer_saliency``; empty unless asked.
    """

    answer: Answer
    states: list[TokenStates]
    saliency: Saliency


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
        self._answers = self._load()
        self._unsaved = False

    def to(self, device: torch.device) -> None:
        """Move the model to the pupil's device, and back to evaluation mode."""
        self.module.to(device).eval()

    def answer(self, batch: Batch) -> Answer:
        """What it says about the batch."""
        indices = batch["index"].tolist()
        if all(index in self._answers for index in indices):
            known = [self._answers[index] for index in indices]
            return _stacked(known, batch["index"].device)
        with torch.no_grad():
            found = self.module.answer(batch)
        if found.logits.dim() == 2 and self.module.fixed_width:
            self._answers.update(zip(indices, _rows(found), strict=True))
            self._unsaved = True
        return found

    def outputs(self, batch: Batch, *, states: bool = False, explained: Iterable[int] = ()) -> TeacherOutputs:
        """What it says of the batch, from one pass; only plain answers are remembered.

        Args:
            batch: encoded rows.
            states: whether to tell what each of its layers makes of the tokens.
            explained: 0-based layers where to tell what the answer rests on; a pass with gradients.
        """
        layers = tuple(explained)
        if not states and not layers:
            return TeacherOutputs(self.answer(batch), [], {})
        with recorded(self.module.retainer, wanted=states) as found:
            answer, saliency = self._explained(batch, layers)
        return TeacherOutputs(answer, [each.detached() for each in found], saliency)

    def _explained(self, batch: Batch, layers: tuple[int, ...]) -> tuple[Answer, Saliency]:
        if not layers:
            with torch.no_grad():
                return self.module.answer(batch), {}
        answers: list[Answer] = []

        def confidence() -> Tensor:
            answers.append(self.module.answer(batch))
            return self.module.confidence(answers[0].logits, batch)

        saliency = layer_saliency(self.module.encoder, layers, confidence)
        logits, pooled = answers[0]
        return Answer(logits.detach(), None if pooled is None else pooled.detach()), saliency

    def _load(self) -> dict[int, Answer]:
        """Answers in the file; none where they lack the pooled states that this module has."""
        if self.file is None or not self.file.exists():
            return {}
        content = torch.load(self.file, map_location="cpu", weights_only=True)
        if self.module.pools and "pooled" not in content:
            return {}
        answer = Answer(content["logits"], content.get("pooled"))
        return dict(zip(content["index"].tolist(), _rows(answer), strict=True))

    def save(self) -> None:
        """Add new answers to the file, beside those that other processes have put there."""
        if self.file is None or not self._unsaved:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):
            everything = {**self._load(), **self._answers}
            content = {"index": torch.tensor(list(everything)), **_content(list(everything.values()))}
            temporary = self.file.with_name(f"{self.file.name}.{os.getpid()}")
            torch.save(content, temporary)
            os.replace(temporary, self.file)
        self._unsaved = False


def _rows(answer: Answer) -> list[Answer]:
    """One answer per row, [C] and [D], in main memory."""
    logits = answer.logits.float().cpu()
    if answer.pooled is None:
        return [Answer(row, None) for row in logits]
    return [Answer(*row) for row in zip(logits, answer.pooled.float().cpu(), strict=True)]


def _content(rows: list[Answer]) -> dict[str, Tensor]:
    """Rows as tensors; ``pooled`` is left out where there is none."""
    content = {"logits": torch.stack([row.logits for row in rows])}
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return content | ({"pooled": torch.stack(pooled)} if pooled else {})


def _stacked(rows: list[Answer], device: torch.device) -> Answer:
    content = {name: values.to(device) for name, values in _content(rows).items()}
    return Answer(content["logits"], content.get("pooled"))
