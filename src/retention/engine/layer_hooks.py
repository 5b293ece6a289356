"""Define the hooks on the layers of an encoder: gates, new masks and positions, and the restored output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from retention.core.flops import BEFORE_FIRST_LAYER
from retention.engine.adapters.base import Adapter, Arguments, argument, replace
from retention.engine.hooks import EngineHook
from retention.engine.layer_output import states_of, with_states
from retention.engine.observer import LayerObserver, Observed
from retention.engine.replacement import Handle
from retention.engine.state import ForwardState


class LayerHooks:
    """Hooks on the layers of one encoder; they find the forward pass to which a call belongs in ``owner``.

    Args:
        owner: of the forward passes and the gate.
        adapter: of the encoder's family.
        layers: 0-based indices of the gated layers, ascending; -1 = before layer 0.
        dropped: see ``Retainer``.
        prune_at: see ``Retainer``.
        observes: what the gate observes, see ``Gate``.
    """

    def __init__(
        self,
        owner: Observed,
        adapter: Adapter,
        *,
        layers: Sequence[int],
        dropped: str,
        prune_at: str,
        observes: Sequence[str],
    ) -> None:
        self.owner = owner
        self.adapter = adapter
        self.layers = layers
        self.dropped = dropped
        self.prune_at = prune_at
        self.observes = observes

    def register(self, layers: Sequence[nn.Module]) -> list[Handle]:
        """Register the hooks on all layers of the encoder, in order."""
        handles: list[Handle] = []
        if BEFORE_FIRST_LAYER in self.layers:
            handles.append(layers[0].register_forward_pre_hook(EngineHook(self._at_first_gate), with_kwargs=True))
        for layer_idx, layer in enumerate(layers):
            handles.append(layer.register_forward_pre_hook(EngineHook(self._before), with_kwargs=True))
            if self.dropped == "forward":
                handles.append(layer.register_forward_hook(EngineHook(self._after)))
            if self.observes and self.layers and layer_idx <= self.layers[-1]:
                observer = LayerObserver(self.owner, self.adapter.attention_parts(layer), self.observes)
                handles += observer.attach(layer, self._gated_part(layer))
            if layer_idx in self.layers:
                hook = EngineHook(partial(self._at_gate, layer_idx))
                handles.append(self._gated_part(layer).register_forward_hook(hook))
        handles.append(layers[-1].register_forward_hook(EngineHook(self._finish)))
        return handles

    def _gated_part(self, layer: nn.Module) -> nn.Module:
        return self.adapter.attention_output(layer) if self.prune_at == "after_attention" else layer

    def _before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        state = self.owner.current_state()
        if state.layer_inputs is not None:
            hidden_states = argument(layer, (args, kwargs), "hidden_states")
            state.layer_inputs.append(state.restored(hidden_states))
        if not state.is_modified:
            return None
        self._remember(argument(layer, (args, kwargs), "hidden_states"), state)
        return self.adapter.rewrite(layer, (args, kwargs), state)

    def _after(self, layer: nn.Module, args: Any, output: Any) -> Any:
        state = self.owner.current_state()
        if state.residual_states is None:
            return None
        blended = state.blended(states_of(output))
        state.residual_states = None
        return with_states(output, blended)

    def _remember(self, hidden_states: Tensor, state: ForwardState) -> None:
        """Store the states before a part of a layer if soft gates will blend them with its output."""
        soft = self.dropped == "forward" and state.log_gates is not None
        state.residual_states = hidden_states if soft else None

    def _at_first_gate(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Apply the gate's decision to the input of layer 0."""
        embeddings = argument(layer, (args, kwargs), "hidden_states")
        kept = self._decide(BEFORE_FIRST_LAYER, embeddings, self.owner.current_state())
        return replace(layer, (args, kwargs), hidden_states=kept)

    def _decide(self, layer_idx: int, hidden_states: Tensor, state: ForwardState) -> Tensor:
        """Let the gate decide and return the states of the kept tokens."""
        state.gates_run.add(layer_idx)
        decision = self.owner.gate.decide(state.view(layer_idx, hidden_states))
        if decision is not None:
            remember = self.dropped == "forward"
            hidden_states = state.apply(layer_idx, hidden_states, decision, remember=remember)
        state.record_gates()
        return hidden_states

    def _at_gate(self, layer_idx: int, layer: nn.Module, args: Any, output: Any) -> Any:
        """Apply the gate's decision to the output of a layer or of its attention part."""
        state = self.owner.current_state()
        hidden_states = self._decide(layer_idx, state.blended(states_of(output)), state)
        if self.prune_at == "after_attention":
            self._remember(hidden_states, state)
        return with_states(output, hidden_states)

    def _finish(self, layer: nn.Module, args: Any, output: Any) -> Any:
        state = self.owner.current_state()
        if self.dropped == "cut" or not state.shortened:
            return None
        return with_states(output, state.restored(states_of(output)))
