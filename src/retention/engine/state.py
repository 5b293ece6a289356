"""Hold the state of one forward pass: its current tokens, gates and masks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from retention.engine.compaction import compact, compact_indices, restore
from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport

Cached = TypeVar("Cached")


@dataclass
class Observation:
    """Observations of the layer that runs now, see ``LayerObserver``.

    Attributes:
        query_weights: [B, N], weights of the tokens as queries.
        previous: [B, ..., N], statistics of the layer before, detached.
        statistics: [B, ..., N], reduced attention of this layer.
        key_norms: [B, N], of this layer.
        maps_requested: True if attention maps were requested for the observation only.
    """

    query_weights: Tensor | None = None
    previous: Tensor | None = None
    statistics: Tensor | None = None
    key_norms: Tensor | None = None
    maps_requested: bool = False


class ForwardState:
    """Current tokens of a batch: original positions, which are real, and how their keys are weighed.

    Args:
        attention_mask: [B, T], non-zero = real.
        protected: [B, T] bool, True = never removed.
        input_ids: [B, T] long or None.
        spans: [B, T] long or None, see ``LayerView``.

    Attributes:
        width: T.
        positions: [B, N] long, original positions of the current tokens.
        valid: [B, N] bool, True = real token.
        log_gates: [B, N] float, or None while every gate is exactly 1.
        shortened: True once a token has been removed.
        padded: True if a current slot holds no real token.
        residual_states: [B, N, D], input of the part of a layer that runs now, for blending by soft gates; None while
            nothing has to be blended.
        attention_statistics: [B, ..., N] of the last observed layer, see ``LayerView``; None without observation.
        key_norms: [B, N], see ``LayerView``.
        observation: of the layer that runs now.
        gates_run: layers whose gate has run.
        layer_inputs: hidden states before each layer so far, dropped tokens included where they are forwarded; None
            unless they are requested.
    """

    def __init__(
        self, attention_mask: Tensor, protected: Tensor, input_ids: Tensor | None, spans: Tensor | None = None
    ) -> None:
        self.valid = attention_mask.bool()
        self.protected = protected & self.valid
        self.input_ids = input_ids
        self.spans = spans
        self.lengths = self.valid.sum(1)
        batch, self.width = self.valid.shape
        self.positions = torch.arange(self.width, device=self.valid.device).expand(batch, self.width)
        self.log_gates: Tensor | None = None
        self.survival: Tensor | None = None
        self.residual_states: Tensor | None = None
        self.attention_statistics: Tensor | None = None
        self.key_norms: Tensor | None = None
        self.observation = Observation()
        self.gates_run: set[int] = set()
        self.layer_inputs: list[Tensor] | None = None
        self.shortened = False
        # An exported graph serves batches with and without padding.
        self.padded = torch.compiler.is_exporting() or not bool(self.valid.all())
        self.report = ForwardReport(lengths=self.lengths)
        self._gate_history: tuple[Tensor | None, ...] = ()  # log_gates after each gate, until a token is removed
        self._removed: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []
        self._cache: dict[object, object] = {}
        self._pass_cache: dict[object, object] = {}

    def copy(self) -> ForwardState:
        """Return an independent copy with the same tokens, without the record of layer inputs."""
        clone = copy.copy(self)
        clone._removed, clone._cache, clone._pass_cache = list(self._removed), {}, dict(self._pass_cache)
        clone.observation, clone.gates_run = replace(self.observation), set(self.gates_run)
        clone.layer_inputs = None
        return clone

    @property
    def is_modified(self) -> bool:
        """Return True if later layers need other arguments than the model itself passes."""
        return self.shortened or self.log_gates is not None

    @property
    def weights(self) -> Tensor:
        """Return the product of the gates so far, [B, N] float; 0 on padding.

        In [0, 1], or the number of tokens that a merged token represents.
        """
        real = self.valid.float()
        return real if self.log_gates is None else real * self.log_gates.exp()

    def view(self, layer_idx: int, hidden_states: Tensor) -> LayerView:
        """Build the input of the gate after ``layer_idx``."""
        survival = self.valid.to(hidden_states.dtype) if self.survival is None else self.survival
        return LayerView(
            layer_idx=layer_idx,
            hidden_states=hidden_states,
            valid=self.valid,
            protected=self.protected,
            positions=self.positions,
            lengths=self.lengths,
            survival=survival,
            weights=self.weights.to(hidden_states.dtype),
            input_ids=self.input_ids,
            spans=None if self.spans is None else self.spans.gather(1, self.positions),
            attention_statistics=self.attention_statistics,
            key_norms=self.key_norms,
        )

    def observe(self, attention_statistics: Tensor | None, key_norms: Tensor | None) -> None:
        """Store the observations of the layer that has just run, for its current tokens; see ``LayerView``."""
        self.attention_statistics, self.key_norms = attention_statistics, key_norms

    def apply(self, layer_idx: int, hidden_states: Tensor, decision: Decision, *, remember: bool) -> Tensor:
        """Apply a decision and return the states of the kept tokens, [B, M, D].

        Args:
            layer_idx: the gated layer.
            hidden_states: [B, N, D].
            decision: of the gate.
            remember: store the states before the removal, so that ``restored`` can put dropped tokens back.
        """
        if decision.log_gates is not None:
            before = self.log_gates
            self.log_gates = decision.log_gates if before is None else before + decision.log_gates
        if decision.survival is not None:
            self.survival = decision.survival
        if decision.hidden_states is not None:
            hidden_states = decision.hidden_states
        self._cache.clear()
        if decision.keep_mask is None:
            return hidden_states
        return self._remove(layer_idx, hidden_states, decision.keep_mask & self.valid, decision.merged_into, remember)

    def record_gates(self) -> None:
        """Record the gates after a decision, for ``soft_depth``."""
        if not self.shortened:
            self._gate_history = (*self._gate_history, self.log_gates)

    def soft_depth(self) -> Tensor | None:
        """Sum ``weights`` after each gate so far, [B, T] float; None once a token has been removed."""
        if self.shortened:
            return None
        real = self.valid.float()
        weights = (real if gates is None else real * gates.exp() for gates in self._gate_history)
        return sum(weights, torch.zeros_like(real))

    def blended(self, hidden_states: Tensor) -> Tensor:
        """Blend the output of a layer with its input by the soft gates, [B, N, D].

        A dropped token keeps the state it has. So a gate of 0 keeps the input, a gate of 1 or more (a merged token)
        takes the output, and gates in between interpolate.
        """
        if self.log_gates is None or self.residual_states is None:
            return hidden_states
        weights = self.log_gates.clamp_max(0.0).exp().to(hidden_states.dtype).unsqueeze(-1).expand_as(hidden_states)
        return torch.lerp(self.residual_states.to(hidden_states.dtype), hidden_states, weights)

    def restored(self, hidden_states: Tensor) -> Tensor:
        """Restore the full length, [B, T, D]: dropped tokens have their last state, merged ones their target's."""
        for previous, indices, slots, merged_into in reversed(self._removed):
            hidden_states = restore(hidden_states, previous, indices, slots)
            if merged_into is not None:
                hidden_states = compact(hidden_states, merged_into)
        return hidden_states

    def mask(self, dtype: torch.dtype, *, boolean: bool, window: int | None = None) -> Tensor | None:
        """Return the attention mask of the current tokens, built once per kept set; None = no mask is needed.

        Args:
            dtype: of an additive mask.
            boolean: use a boolean mask (True = attend) while no gate is soft.
            window: keys on each side that a query may attend to, by original position; None = all.

        Returns:
            [B, 1, 1, N] or, with a window, [B, 1, N, N].
        """
        return self.cached((dtype, boolean, window), lambda: self._build_mask(dtype, boolean, window))

    def gate_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Return the term added to the attention logits of each key, [B, N]; None while all gates are exactly 1."""
        if self.log_gates is None:
            return None
        # Closed gates add up: five of them, or one in float16, would reach -inf and give NaN where all keys are closed.
        closed = max(torch.finfo(kind).min for kind in (dtype, self.log_gates.dtype)) / 4
        return self.log_gates.clamp_min(closed).to(dtype)

    def cached(self, key: object, build: Callable[[], Cached]) -> Cached:
        """Return the result of ``build``, computed once until the tokens or gates change."""
        if key not in self._cache:
            self._cache[key] = build()
        return cast(Cached, self._cache[key])

    def cached_for_pass(self, key: object, build: Callable[[], Cached]) -> Cached:
        """Return the result of ``build``, computed once in this forward pass."""
        if key not in self._pass_cache:
            self._pass_cache[key] = build()
        return cast(Cached, self._pass_cache[key])

    def _build_mask(self, dtype: torch.dtype, boolean: bool, window: int | None) -> Tensor | None:
        visible = self.valid[:, None, None, :] if self.padded else None
        if window is not None:
            distance = (self.positions[:, :, None] - self.positions[:, None, :]).abs()
            near = (distance <= window)[:, None]
            # Padding far from every real token attends to itself: attention without any key is undefined.
            visible = near if visible is None else near & (visible | (distance == 0)[:, None])
        if self.log_gates is None:
            if visible is None or boolean:
                return visible
            return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
                ~visible, torch.finfo(dtype).min
            )
        bias = cast(Tensor, self.gate_bias(dtype))[:, None, None, :]
        return bias if visible is None else torch.where(visible, bias, torch.finfo(dtype).min)

    def _remove(
        self, layer_idx: int, hidden_states: Tensor, keep_mask: Tensor, merged_into: Tensor | None, remember: bool
    ) -> Tensor:
        indices, slots = compact_indices(keep_mask, minimum=1)  # layers cannot run without any token
        if remember:
            self._removed.append((hidden_states, indices, slots, merged_into))
        self.positions = compact(self.positions, indices)
        self.protected = compact(self.protected, indices)
        self.valid = torch.ones_like(indices, dtype=torch.bool) if slots is None else slots
        self.protected = self.protected & self.valid
        if self.log_gates is not None:
            self.log_gates = compact(self.log_gates, indices)
        if self.survival is not None:
            self.survival = compact(self.survival, indices) * self.valid
        if self.attention_statistics is not None:
            by_token = self.attention_statistics.detach().movedim(-1, 1)
            self.attention_statistics = compact(by_token, indices).movedim(1, -1)
        self.key_norms = None
        self.shortened = True
        self.padded = slots is not None
        self.report.record_kept(layer_idx, self.valid, self.positions)
        return compact(hidden_states, indices)
