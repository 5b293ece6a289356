"""Read and replace hidden states in the output of a layer (a tensor, or a tuple that starts with it) or encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from retention.engine.state import ForwardState


def states_of(output: Any) -> Tensor:
    """Return the hidden states [B, N, D] of a layer's output."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def with_states(output: Any, hidden_states: Tensor) -> Any:
    """Return the output with its hidden states replaced."""
    return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states


def with_layer_inputs(output: Any, state: ForwardState) -> Any:
    """Return the encoder's output with the recorded layer inputs as ``hidden_states``, if they were requested.

    Which states the library records otherwise (before or after a removal) depends on earlier calls of the model. Its
    last entry, the output of the encoder, stays, and so do entries that were not selected (None).
    """
    recorded = getattr(output, "hidden_states", None)
    if state.layer_inputs is None or not recorded:
        return output
    ours = (*state.layer_inputs, recorded[-1])
    output["hidden_states"] = tuple(
        None if theirs is None else states for theirs, states in zip(recorded, ours, strict=True)
    )
    return output
