"""Warn if a policy in training mode is not trained."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


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
        self._warned = self.gate is None
        self._versions: tuple[int, int] | None = None

    def check(self) -> None:
        """Compare the weights with those of the first pass, by their version counters."""
        if self._warned or self.gate is None or not self.gate.training:
            return
        if not torch.is_grad_enabled():
            self._warn("the policy is in training mode, but gradients are disabled; call policy.eval() for inference")
            return
        if self._reference is None or not self._learned or getattr(self.gate, "current_phase", "") == "warmup":
            return
        versions = self._reference._version, sum(each._version for each in self._learned)
        if self._versions is None:
            self._versions = versions
        elif versions[0] != self._versions[0] and versions[1] == self._versions[1]:
            self._warn(
                "the model's weights were updated but those of the policy were not: add policy.parameters() to the "
                "optimizer, or call policy.eval() to use the policy as it is"
            )

    def _warn(self, message: str) -> None:
        self._warned = True
        warnings.warn(message, UserWarning, stacklevel=2)
