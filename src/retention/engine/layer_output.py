"""The hidden states among what a layer returns: alone, or first in a tuple."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def states_of(output: Any) -> Tensor:
    """The hidden states [B, N, D]."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def with_states(output: Any, hidden_states: Tensor) -> Any:
    """The same output with other hidden states."""
    return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states
