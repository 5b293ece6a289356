"""Remove tokens before and between the layers of a Hugging Face encoder, by hooks."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from retention.engine.adapters import adapter_for, encoder_of
from retention.engine.adapters.base import transformer_layers
from retention.engine.checks import (
    DROPPED,
    check_built_for,
    check_engine,
    check_head,
    check_layers,
    check_protect_query,
    check_protected_ids,
    check_prune_at,
)
from retention.engine.encoder_call import (
    encoder_arguments,
    input_ids_and_mask,
    protected_tokens,
    wants_hidden_states,
)
from retention.engine.gate import Gate
from retention.engine.hooks import EngineHook, KeptAlive
from retention.engine.layer_hooks import LayerHooks
from retention.engine.layer_output import with_layer_inputs
from retention.engine.observer import check_observed, check_observed_layers
from retention.engine.pass_values import PassValues
from retention.engine.recomputation import RecomputedLayer
from retention.engine.replacement import Handle, Replacement, Substitute
from retention.engine.report import ForwardReport
from retention.engine.state import ForwardState
from retention.engine.training_watch import TrainingWatch

__all__ = ["DROPPED", "Retainer", "check_engine", "check_layers", "check_prune_at"]


class _ThreadState(threading.local):
    """State of one thread: the running and the last forward pass, and what its next passes protect."""

    current: ForwardState | None = None
    last: ForwardState | None = None
    protected: Tensor | None = None
    spans: Tensor | None = None


class Retainer:
    """Context in which an encoder drops tokens between its layers.

    After every gated layer the gate decides. The hidden states are gathered to the kept tokens of all samples at once,
    and masks and position tensors are rewritten for each later layer. Weights, ``state_dict`` keys and classes of the
    model are unchanged, and leaving the context restores the model.

    The context applies to calls of the model from every thread, and threads may enter it at the same time; ``state``,
    ``report``, ``protect`` and ``prune_together`` belong to the thread that uses them. One context at a time can be
    open on an encoder. Copies and pickles of the model that are made inside the context keep every token.

    With ``output_hidden_states`` entry i of ``hidden_states`` is the input of layer i. It has the full length, where
    dropped tokens have their last state, or with ``dropped="cut"`` holds the tokens that the layer saw; the last entry
    is the output. Attention maps (``output_attentions``) are those of the remaining tokens of each layer.

    ``torch.export`` with ``strict=False`` records the removal for batches of any size, see ``retention.export``.
    ``torch.jit.trace`` would record the number of kept tokens of one example. A model compiled by ``torch.compile``
    runs uncompiled inside the context.

    Args:
        model: a Hugging Face encoder, with or without a head, also inside a PEFT or compiled model.
        gate: decides after each gated layer, usually a retention policy.
        layers: 0-based indices of the gated layers; -1 = a gate before layer 0, which removes embeddings.
        dropped: ``forward`` puts dropped tokens back after the last layer with their last state, so the output keeps
            its length; ``cut`` returns only the kept tokens, so a head must not read fixed positions of tokens that
            can be dropped.
        prune_at: ``after_layer``, or ``after_attention``: dropped tokens skip the feed-forward part of their last
            layer; no effect on the gate before layer 0.
        protected_ids: token ids that are never removed (CLS, SEP); used for batches without a mask from ``protect``.
        protect_query: True to never remove the first text of a pair either, such as a reranker's query: the tokens up
            to the first of ``protected_ids`` after the start.

    Raises:
        ConfigError: no adapter for the family; a model configuration for which removal would not equal masking; an
            attention implementation other than those of the adapter; a layer that does not exist; a ``prune_at`` that
            the family does not support; ``protect_query`` without ids; a gate that observes something the model does
            not provide, or that was built for another encoder; ``dropped="cut"`` with a head that answers by position.

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
        protect_query: bool = False,
    ) -> None:
        self.encoder = encoder_of(model)
        self.gate = gate
        self.dropped = dropped
        self.prune_at = prune_at
        self.protected_ids = check_protected_ids(protected_ids)
        self.protect_query = check_protect_query(protect_query, self.protected_ids)
        config: Any = self.encoder.config
        self.adapter = adapter_for(config.model_type)
        self.adapter.check(config)
        self.shape = self.adapter.shape(config)
        check_built_for(gate, self.shape)
        self.layers = check_layers(layers, self.shape.num_layers, str(config.model_type))
        check_engine(dropped, str(config._attn_implementation), self.adapter.attention)
        check_prune_at(prune_at, self.adapter.prune_points, str(config.model_type))
        check_head(model, dropped)
        self.observes: tuple[str, ...] = tuple(getattr(gate, "observes", ()))
        check_observed(self.observes, self.adapter.observable, str(config._attn_implementation), config.model_type)
        check_observed_layers(self.observes, self.layers)
        transformer_layers(self.adapter, self.encoder, self.shape.num_layers)
        self.training_watch: TrainingWatch | None = None
        self._initialize()

    def _initialize(self) -> None:
        """Set what belongs to open contexts and forward passes, which copies do not share."""
        self._thread = _ThreadState()
        self._lock = threading.RLock()
        self._entered: list[int] = []  # idents of the threads inside the context
        self._users = 0  # contexts and recomputations that need the hooks
        self._handles: list[Handle] = []

    @property
    def state(self) -> ForwardState:
        """Return the tokens of this thread's last forward pass.

        Raises:
            RuntimeError: no forward pass has run inside the context.
        """
        state = self._thread.current or self._thread.last
        if state is None:
            raise RuntimeError(
                "no forward pass has run inside this context in this thread; call the model first. If it was called: "
                "the call did not reach the encoder's forward method, as in a model that holds another copy of it"
            )
        return state

    @property
    def report(self) -> ForwardReport:
        """Return the report of this thread's last forward pass."""
        return self.state.report

    @contextmanager
    def protect(self, protected_mask: Tensor | None) -> Iterator[None]:
        """Protect tokens in this thread's forward passes inside the block; an inner block replaces an outer one.

        Args:
            protected_mask: [B, T] bool, True = never removed; None = protect ``protected_ids`` and, with
                ``protect_query``, the first text.
        """
        before, self._thread.protected = self._thread.protected, protected_mask
        try:
            yield
        finally:
            self._thread.protected = before

    @contextmanager
    def prune_together(self, spans: Tensor) -> Iterator[None]:
        """Keep or remove the tokens of a span together in this thread's forward passes inside the block.

        Args:
            spans: [B, T] long, see ``LayerView.spans``.
        """
        before, self._thread.spans = self._thread.spans, spans
        try:
            yield
        finally:
            self._thread.spans = before

    def __getstate__(self) -> dict[str, Any]:
        """Leave open contexts and forward passes out of copies."""
        per_context = {"_thread", "_lock", "_entered", "_users", "_handles", "training_watch"}
        return {name: value for name, value in self.__dict__.items() if name not in per_context}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.training_watch = None
        self._initialize()

    def __enter__(self) -> Retainer:
        with self._lock:
            if threading.get_ident() in self._entered:
                message = "this retainer is already attached; leave its context before entering it again"
                raise RuntimeError(f"{message}, or call the model in the open context")
            self._attach()
            self._entered.append(threading.get_ident())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            ident = threading.get_ident()
            self._entered.remove(ident if ident in self._entered else self._entered[-1])
            self._detach()

    def _attach(self) -> None:
        """Register the hooks unless another user has; every call needs a ``_detach``."""
        with self._lock:
            if self._users == 0:
                try:
                    self._register()
                except BaseException:
                    self._remove_hooks()
                    raise
            self._users += 1

    def _detach(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._remove_hooks()

    def _remove_hooks(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()

    def _register(self) -> None:
        layers = self.adapter.layers(self.encoder)
        hooks = (hook for layer in layers for hook in layer._forward_pre_hooks.values())
        if any(isinstance(hook, EngineHook) for hook in hooks):
            raise RuntimeError(
                "another retention context is open on this encoder; leave it first (its `with` block, or "
                "retainer.__exit__(None, None, None) if it was entered by hand), or load a second model"
            )
        self._handles.extend(self.adapter.attach(self.encoder))
        disable: Any = torch.compiler.disable
        run = disable(self._run)  # compiled code would keep the hooks and lengths of one call
        self._handles.append(Replacement(self.encoder, "forward", partial(run, self.encoder.forward)))
        hooks_of_layers = LayerHooks(
            self,
            self.adapter,
            layers=self.layers,
            dropped=self.dropped,
            prune_at=self.prune_at,
            observes=self.observes,
        )
        self._handles.extend(hooks_of_layers.register(layers))

    def _run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one forward pass of the encoder with its own state."""
        call = encoder_arguments(self.encoder, args, kwargs)
        hidden_states = wants_hidden_states(self.encoder, call)
        before, state = self._thread.current, self._begin(call)
        state.layer_inputs = [] if hidden_states else None
        self._thread.current = state
        try:
            config: Any = self.encoder.config
            if hidden_states and kwargs.get("return_dict", getattr(config, "return_dict", True)) is False:
                output = with_layer_inputs(forward(*args, **{**kwargs, "return_dict": True}), state).to_tuple()
            else:
                output = with_layer_inputs(forward(*args, **kwargs), state)
        finally:
            self._thread.current = before
        self._thread.last = state
        missing = sorted(set(self.layers) - state.gates_run)
        if missing:
            raise RuntimeError(
                f"the gates after layers {missing} did not run, so no token was removed there: these layers were not "
                "called as modules in this forward pass (a replaced forward method, or layers that were compiled or "
                "removed one by one); load the model anew without them, or gate other layers"
            )
        return output

    def _begin(self, call: dict[str, Any]) -> ForwardState:
        if self.training_watch is not None:
            self.training_watch.check()
        input_ids, mask = input_ids_and_mask(call)
        protected = protected_tokens(
            input_ids, mask, self._thread.protected, self.protected_ids, protect_query=self.protect_query
        )
        is_global = self.adapter.global_tokens(call)
        never_removed = protected if is_global is None else protected | is_global
        state = ForwardState(mask, never_removed, input_ids, self._thread.spans)
        if is_global is not None:
            state.report.global_tokens = (is_global & mask.bool()).sum(1)
        if self.encoder.training and torch.is_grad_enabled():
            self._recompute_with_state()
        self.gate.begin(state.report)
        return state

    def _recompute_with_state(self) -> None:
        """Let layers under gradient checkpointing run again with the state of their own forward pass."""
        for layer in self.adapter.layers(self.encoder):
            checkpoint: Any = getattr(layer, "_gradient_checkpointing_func", None)
            if getattr(layer, "gradient_checkpointing", False) and not isinstance(checkpoint, Substitute):
                replacement = RecomputedLayer(self, checkpoint)
                # The backward pass may follow after the context, when nobody else holds this retainer.
                self.encoder.__dict__["_retainer_of_last_pass"] = KeptAlive(self)
                self._handles.append(Replacement(layer, "_gradient_checkpointing_func", replacement))

    def current_state(self) -> ForwardState:
        """Return the state of the forward pass that runs in this thread.

        Raises:
            RuntimeError: none runs; a layer was called by itself, or again after its forward pass.
        """
        state = self._thread.current
        if state is None:
            raise RuntimeError(
                "a layer of the encoder ran outside of a forward pass of the encoder, so no token could be removed; "
                "call the encoder itself. To recompute layers in the backward pass, use "
                "model.gradient_checkpointing_enable() or checkpoint the whole encoder"
            )
        return state

    def capture(self) -> Callable[[], AbstractContextManager[None]]:
        """Return a function that makes a context in which a layer of the present pass can run again."""
        state = self.current_state().copy()
        passed = getattr(self.gate, "pass_values", None)
        values = passed.snapshot() if isinstance(passed, PassValues) else {}
        # The graph must not keep this retainer alive, whose last pass keeps the graph alive: the cycle would go through
        # autograd, where Python cannot collect it.
        retainer = weakref.ref(self)

        def again() -> AbstractContextManager[None]:
            owner = retainer()
            if owner is None:
                message = "the model or its retention context was deleted before the backward pass; keep both until"
                raise RuntimeError(f"{message} then (`with retain(...) as retainer:`)")
            return owner._again(state.copy(), values)

        return again

    @contextmanager
    def _again(self, state: ForwardState, values: dict[str, Any]) -> Iterator[None]:
        with ExitStack() as stack:
            self._attach()
            stack.callback(self._detach)
            passed = getattr(self.gate, "pass_values", None)
            if isinstance(passed, PassValues):
                stack.enter_context(passed.using(dict(values)))
            before, self._thread.current = self._thread.current, state
            try:
                yield
            finally:
                self._thread.current = before
