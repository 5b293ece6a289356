"""Provide the base classes of training phases: they advance step by step, and can be stored between any two steps.

The commands of this package run a phase from its start to its end. The experiment framework runs several of them, one
after the other, and stores their states in its checkpoints; the steps are the same, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from retention.errors import CheckpointError, TrainingError, require

T = TypeVar("T")


@dataclass(frozen=True)
class PhaseStep:
    """Result of one optimizer step.

    Attributes:
        step: number of the step within its phase, from 1.
        steps: number of all steps of the phase; the largest possible one if the phase may end earlier.
        loss: loss of the step.
    """

    step: int
    steps: int
    loss: float


class TrainingPhase(ABC):
    """Training with one optimizer, one optimizer step at a time.

    Args:
        optimizer: holds the trained parameters. Its state is not part of ``state_dict``.
        steps: number of steps at most.
        generator: draws everything that is random in the steps.
        max_norm: gradients are clipped to this norm; None = they are not.

    Attributes:
        name: of the phase, for messages and records.
        done: number of steps that were done.
    """

    name: ClassVar[str]

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int,
        generator: torch.Generator,
        max_norm: float | None = None,
    ) -> None:
        self.optimizer, self.steps, self.generator, self.max_norm = optimizer, steps, generator, max_norm
        self.done = 0

    @property
    def is_finished(self) -> bool:
        """Return True if no step is left."""
        return self.done >= self.steps

    def advance(self, step: Callable[[], Any] | None = None) -> PhaseStep:
        """Do one step.

        Args:
            step: steps the optimizer; None = its own ``step``.

        Raises:
            TrainingError: the loss is not finite.
        """
        loss = self._loss()
        value = float(loss.detach())
        if not bool(torch.isfinite(loss)):
            rate = self.optimizer.param_groups[0]["lr"]
            raise TrainingError(f"the loss of the phase {self.name} is {value}; lower lr (now {rate:g})")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_norm is not None:
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.max_norm)
        (step or self.optimizer.step)()
        self.done += 1
        return self._result(value)

    def run(self) -> Iterator[PhaseStep]:
        """Do all steps that are left, and yield the result of each."""
        while not self.is_finished:
            yield self.advance()

    def state_dict(self) -> dict[str, Any]:
        """Return what a phase that was built alike needs to go on, as tensors and plain values."""
        return {"done": self.done, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of ``state_dict``; the optimizer and the trained parameters are restored elsewhere."""
        self.done = state["done"]
        self.generator.set_state(state["generator"].cpu())

    @abstractmethod
    def _loss(self) -> Tensor:
        """Compute the loss of the next step, a scalar."""

    def _result(self, loss: float) -> PhaseStep:
        """Return the result of the step that was just done."""
        return PhaseStep(self.done, self.steps, loss)


class EpochPhase(TrainingPhase, Generic[T]):
    """Phase that goes through examples several times, one example per step, each time in a new random order.

    Args:
        optimizer: see ``TrainingPhase``.
        examples: at least one.
        epochs: passes over the examples.
        generator: draws the orders too.
        max_norm: see ``TrainingPhase``.

    Raises:
        ConfigError: there are no examples.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        examples: Sequence[T],
        epochs: int,
        generator: torch.Generator,
        max_norm: float | None = None,
    ) -> None:
        require(len(examples) > 0, "texts", "needs at least one text")
        super().__init__(optimizer, epochs * len(examples), generator, max_norm)
        self.examples = examples
        self._order: list[int] = []  # what is left of the present epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the examples that are left in the present epoch."""
        return {**super().state_dict(), "order": list(self._order), "examples": len(self.examples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of ``state_dict``.

        Raises:
            CheckpointError: the state is of a phase with another number of examples.
        """
        if state["examples"] != len(self.examples):
            raise CheckpointError(
                f"the phase {self.name} was stopped with {state['examples']} examples and cannot go on with "
                f"{len(self.examples)}; use the settings that it was started with"
            )
        super().load_state_dict(state)
        self._order = list(state["order"])

    def _next_example(self) -> T:
        if not self._order:
            self._order = torch.randperm(len(self.examples), generator=self.generator).tolist()
        return self.examples[self._order.pop(0)]
