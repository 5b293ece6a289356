"""Read and replace the hidden states in the output of a layer: a tensor, or a tuple that starts with it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def states_of(output: Any) -> Tensor:
    """Return the hidden states [B, N, D] of a layer's output."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def with_states(output: Any, hidden_states: Tensor) -> Any:
    """Return the output with its hidden states replaced."""
    return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states
