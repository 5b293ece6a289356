"""Warn if a policy in training mode is not trained."""

from __future__ import annotations

import threading
import warnings
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class TrainingWatch:
    """Check at the start of forward passes that a policy in training mode takes part in the training; warn once.

    Args:
        encoder: the encoder.
        gate: the policy; other gates are not checked.
    """

    def __init__(self, encoder: nn.Module, gate: Any) -> None:
        self.gate = gate if isinstance(gate, nn.Module) else None
        self._reference = next((each for each in encoder.parameters() if each.requires_grad), None)
        self._learned = [each for each in gate.parameters() if each.requires_grad] if self.gate is not None else []
        self._finished = self.gate is None
        self._steps = (0, 0)  # of optimizers that hold the reference, and of those that hold parameters of the policy
        self._updates: tuple[int, int] | None = None
        if self._reference is not None and self._learned:
            _watch_optimizers(self)

    def check(self) -> None:
        """Compare the numbers of updates with those at the first pass."""
        if self._finished or self.gate is None or not self.gate.training:
            return
        if not torch.is_grad_enabled():
            self._warn("the policy is in training mode, but gradients are disabled; call policy.eval() for inference")
            return
        if self._reference is None or not self._learned or getattr(self.gate, "current_phase", "") == "warmup":
            return
        # Version counters show updates by any code, but not those of fused optimizers.
        versions = self._reference._version, sum(each._version for each in self._learned)
        updates = versions[0] + self._steps[0], versions[1] + self._steps[1]
        if self._updates is None:
            self._updates = updates
        elif updates[1] != self._updates[1]:
            self._finished = True
        elif updates[0] != self._updates[0]:
            self._warn(
                "the model's weights were updated but those of the policy were not: add policy.parameters() to the "
                "optimizer, or call policy.eval() to use the policy as it is"
            )

    def count_step(self, optimized: set[int]) -> None:
        """Count a step of an optimizer; ``optimized`` holds the ids of its parameters."""
        if not self._finished:
            model, policy = self._steps
            trains_policy = any(id(each) in optimized for each in self._learned)
            self._steps = model + (id(self._reference) in optimized), policy + trains_policy

    def _warn(self, message: str) -> None:
        self._finished = True
        warnings.warn(message, UserWarning, stacklevel=2)


_watches: WeakSet[TrainingWatch] = WeakSet()
_lock = threading.Lock()


def _watch_optimizers(watch: TrainingWatch) -> None:
    _register_hook()
    with _lock:
        _watches.add(watch)


@cache
def _register_hook() -> None:
    """Register one hook on the steps of all optimizers.

    It is never removed: that could happen while another thread runs the hooks.
    """
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    with _lock:
        watches = list(_watches)
    if watches:
        optimized = {id(each) for group in optimizer.param_groups for each in group["params"]}
        for watch in watches:
            watch.count_step(optimized)
