"""Remove tokens between the layers of a Hugging Face encoder, by hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from retention.engine.adapters import adapter_for, encoder_of
from retention.engine.adapters.base import Arguments, argument
from retention.engine.gate import Gate
from retention.engine.layer_output import states_of, with_states
from retention.engine.observer import LayerObserver, check_observed
from retention.engine.replacement import Handle
from retention.engine.report import ForwardReport
from retention.engine.state import ForwardState
from retention.errors import require

DROPPED = ("forward", "cut")


class Retainer:
    """Context in which an encoder drops tokens between its layers.

    After every gated layer the gate decides. The hidden states are gathered to the kept tokens of all samples at once,
    and masks and position tensors are rewritten for each later layer. Weights, ``state_dict`` keys and classes of the
    model are unchanged, and leaving the context restores the model.

    Args:
        model: a Hugging Face encoder, with or without a head.
        gate: decides after each gated layer, usually a retention policy.
        layers: 0-based indices of the gated layers.
        dropped: ``forward`` puts dropped tokens back after the last layer with their last state, so the output keeps
            its length; ``cut`` returns only the kept tokens.
        prune_at: ``after_layer``, or ``after_attention``: dropped tokens skip the feed-forward part of their last
            layer.
        protected_ids: token ids that are never removed (CLS, SEP); used for batches without a mask from ``protect``.

    Raises:
        ConfigError: no adapter for the family; a model configuration for which removal would not equal masking; an
            attention implementation other than those of the adapter; a layer that does not exist; a ``prune_at`` that
            the family does not support; a gate that observes something the model does not provide.

    Examples:
        >>> with Retainer(model, gate, layers=[0]) as retainer:        # doctest: +SKIP
        ...     output = model(input_ids=ids, attention_mask=mask)
        ...     retainer.report.kept
    """

    def __init__(
        self,
        model: nn.Module,
        gate: Gate,
        *,
        layers: Iterable[int],
        dropped: str = "forward",
        prune_at: str = "after_layer",
        protected_ids: Iterable[int] = (),
    ) -> None:
        self.encoder = encoder_of(model)
        self.gate = gate
        self.dropped = dropped
        self.prune_at = prune_at
        self.protected_ids = tuple(protected_ids)
        config: Any = self.encoder.config
        self.adapter = adapter_for(config.model_type)
        self.adapter.check(config)
        self.shape = self.adapter.shape(config)
        self.layers = check_layers(layers, self.shape.num_layers, str(config.model_type))
        check_engine(dropped, str(config._attn_implementation), self.adapter.attention)
        check_prune_at(prune_at, self.adapter.prune_points, str(config.model_type))
        self.observes: tuple[str, ...] = tuple(getattr(gate, "observes", ()))
        check_observed(self.observes, self.adapter.observable, str(config._attn_implementation), config.model_type)
        self._state: ForwardState | None = None
        self._protected: Tensor | None = None
        self._spans: Tensor | None = None
        self._handles: list[Handle] = []
        self._states_at_gates: dict[int, ForwardState] = {}

    @property
    def state(self) -> ForwardState:
        """Return the tokens of the last forward pass.

        Raises:
            RuntimeError: no forward pass has run inside the context.
        """
        if self._state is None:
            raise RuntimeError("no forward pass has run inside this context; call the model first")
        return self._state

    @property
    def report(self) -> ForwardReport:
        """Return the report of the last forward pass."""
        return self.state.report

    @contextmanager
    def protect(self, protected_mask: Tensor | None) -> Iterator[None]:
        """Protect tokens in forward passes inside the block.

        Args:
            protected_mask: [B, T] bool, True = never removed; None = protect ``protected_ids``.
        """
        self._protected = protected_mask
        try:
            yield
        finally:
            self._protected = None

    @contextmanager
    def prune_together(self, spans: Tensor) -> Iterator[None]:
        """Keep or remove the tokens of a span together in forward passes inside the block.

        Args:
            spans: [B, T] long, see ``LayerView.spans``.
        """
        self._spans = spans
        try:
            yield
        finally:
            self._spans = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last forward pass out of copies of a hooked model: tensors of a graph cannot be copied."""
        return {**self.__dict__, "_state": None, "_states_at_gates": {}}

    def __enter__(self) -> Retainer:
        if self._handles:
            raise RuntimeError("this retainer is already attached; leave its context before entering it again")
        layers = self.adapter.layers(self.encoder)
        self._handles.extend(self.adapter.attach(self.encoder))
        self._handles.append(self.encoder.register_forward_pre_hook(self._begin, with_kwargs=True))
        for layer_idx, layer in enumerate(layers):
            self._handles.append(layer.register_forward_pre_hook(self._before, with_kwargs=True))
            if self.dropped == "forward":
                self._handles.append(layer.register_forward_hook(self._after))
            if self.observes and self.layers and layer_idx <= self.layers[-1]:
                observer = LayerObserver(self, self.adapter.attention_parts(layer), self.observes)
                self._handles += observer.attach(layer, self._gated_part(layer))
            if layer_idx in self.layers:
                self._handles.append(self._gated_part(layer).register_forward_hook(_GateHook(self, layer_idx)))
        self._handles.append(layers[-1].register_forward_hook(self._finish))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _gated_part(self, layer: nn.Module) -> nn.Module:
        return self.adapter.attention_output(layer) if self.prune_at == "after_attention" else layer

    def _begin(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = inspect.signature(encoder.forward).bind_partial(*args, **kwargs).arguments
        call = {**call, **call.get("kwargs", {})}
        input_ids, embeds = call.get("input_ids"), call.get("inputs_embeds")
        source: Any = embeds if input_ids is None else input_ids
        mask = call.get("attention_mask")
        if mask is None:
            mask = torch.ones(source.shape[:2], dtype=torch.long, device=source.device)
        if mask.dim() != 2:
            raise ValueError(f"attention_mask must be [B, T] with 1 = real token, got shape {tuple(mask.shape)}")
        protected, is_global = self._protection(input_ids, mask), self.adapter.global_tokens(call)
        never_removed = protected if is_global is None else protected | is_global
        self._state = ForwardState(mask, never_removed, input_ids, self._spans)
        if is_global is not None:
            self._state.report.global_tokens = (is_global & mask.bool()).sum(1)
        self._states_at_gates.clear()
        self.gate.begin(self._state.report)

    def _protection(self, input_ids: Tensor | None, mask: Tensor) -> Tensor:
        if self._protected is not None:
            return self._protected.bool()
        protected = torch.zeros_like(mask, dtype=torch.bool)
        if input_ids is not None and self.protected_ids:
            ids = torch.tensor(self.protected_ids, device=input_ids.device)
            protected = torch.isin(input_ids, ids)
        return protected

    def _before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if not self.state.is_modified:
            return None
        self._remember(argument(layer, (args, kwargs), "hidden_states"), self.state)
        return self.adapter.rewrite(layer, (args, kwargs), self.state)

    def _after(self, layer: nn.Module, args: Any, output: Any) -> Any:
        if self.state.residual_states is None:
            return None
        blended = self.state.blended(states_of(output))
        self.state.residual_states = None
        return with_states(output, blended)

    def _remember(self, hidden_states: Tensor, state: ForwardState) -> None:
        """Store the states before a part of a layer if soft gates will blend them with its output."""
        soft = self.dropped == "forward" and state.log_gates is not None
        state.residual_states = hidden_states if soft else None

    def apply_gate(self, layer_idx: int, output: Any) -> Any:
        """Apply the gate's decision to the output of a layer or of its attention part."""
        state = self._state_at_gate(layer_idx)
        hidden_states = state.blended(states_of(output))
        decision = self.gate.decide(state.view(layer_idx, hidden_states))
        if decision is not None:
            remember = self.dropped == "forward"
            hidden_states = state.apply(layer_idx, hidden_states, decision, remember=remember)
        state.record_gates()
        if self.prune_at == "after_attention":
            self._remember(hidden_states, state)
        return with_states(output, hidden_states)

    def _state_at_gate(self, layer_idx: int) -> ForwardState:
        """Return the state before the decision of a gate.

        Gradient checkpointing runs the inside of a layer again in the backward pass. A gate inside the layer then
        decides again, on a copy of the state that it had in the forward pass.
        """
        if self.prune_at == "after_layer":
            return self.state
        if layer_idx in self._states_at_gates:
            return self._states_at_gates[layer_idx].copy()
        self._states_at_gates[layer_idx] = self.state.copy()
        return self.state

    def _finish(self, layer: nn.Module, args: Any, output: Any) -> Any:
        if self.dropped == "cut" or not self.state.shortened:
            return None
        return with_states(output, self.state.restored(states_of(output)))


class _GateHook:
    """Forward hook of one gated layer; a class instead of a closure, so that hooked models can be pickled."""

    def __init__(self, retainer: Retainer, layer_idx: int) -> None:
        self.retainer = retainer
        self.layer_idx = layer_idx

    def __call__(self, layer: nn.Module, args: Any, output: Any) -> Any:
        return self.retainer.apply_gate(self.layer_idx, output)


def check_layers(layers: Iterable[int], num_layers: int, name: str) -> tuple[int, ...]:
    """Return the layer indices, sorted and without duplicates.

    Raises:
        ConfigError: a layer that the encoder does not have.
    """
    selected = tuple(sorted(set(layers)))
    for layer_idx in selected:
        message = f"layer {layer_idx} does not exist, {name} has {num_layers} (0..{num_layers - 1})"
        require(0 <= layer_idx < num_layers, "layers", message)
    return selected


def check_engine(dropped: str, attention: str, supported: Sequence[str]) -> None:
    """Check the treatment of dropped tokens and the attention implementation.

    Raises:
        ConfigError: a value that the engine does not support.
    """
    require(dropped in DROPPED, "dropped", f"must be one of {', '.join(DROPPED)}, got {dropped!r}")
    message = f"must be one of {', '.join(supported)}, got {attention!r}; load the model with attn_implementation=..."
    require(attention in supported, "attn_implementation", message)


def check_prune_at(prune_at: str, supported: Sequence[str], name: str) -> None:
    """Check that tokens can be removed at ``prune_at`` in the layers of a family.

    Raises:
        ConfigError: they cannot.
    """
    message = f"must be one of {', '.join(supported)} with {name}, got {prune_at!r}"
    require(prune_at in supported, "prune_at", message)
