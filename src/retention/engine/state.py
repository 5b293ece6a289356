"""Everything one forward pass remembers about its tokens; made at its start, dropped at its end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from retention.engine.compaction import compact, compact_indices, restore
from retention.engine.gate import Decision, LayerView
from retention.engine.report import ForwardReport

Cached = TypeVar("Cached")


class ForwardState:
    """The current tokens of a batch: where they come from, which are real, how their keys are weighed.

    Args:
        attention_mask: [B, T], non-zero = real.
        protected: [B, T] bool, True = never removed.
        input_ids: [B, T] long or None.
        spans: [B, T] long or None, see ``LayerView``.

    Attributes:
        width: T.
        positions: [B, N] long, original positions of the current tokens.
        valid: [B, N] bool.
        log_gates: [B, N] float, or None while every gate is exactly 1.
        shortened: whether any token has been removed.
        padded: whether any current slot is not a real token.
        entering: [B, N, D], states before the part of a layer that runs now; None while nothing has to be blended.
        received, accumulated, key_norms: see ``LayerView``; None where nothing observes the attention.
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
        self.received: Tensor | None = None
        self.accumulated: Tensor | None = None
        self.key_norms: Tensor | None = None
        self.shortened = False
        self.padded = not bool(self.valid.all())
        self.report = ForwardReport(lengths=self.lengths)
        self._openings: tuple[Tensor | None, ...] = ()  # log_gates behind each gate, while nothing has been removed
        self._removed: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._cache: dict[object, object] = {}
        self._made_once: dict[object, object] = {}

    def copy(self) -> ForwardState:
        """The same tokens; what happens to them from here on stays apart."""
        clone = copy.copy(self)
        clone._removed, clone._cache = list(self._removed), {}
        return clone

    @property
    def is_modified(self) -> bool:
        """Whether later layers see anything else than the model itself would show them."""
        return self.shortened or self.log_gates is not None

    @property
    def weights(self) -> Tensor:
        """Product of the gates so far, [B, N] float in [0, 1]; 0 on padding."""
        open_gates = self.valid.float()
        return open_gates if self.log_gates is None else open_gates * self.log_gates.exp()

    def view(self, layer_idx: int, hidden_states: Tensor) -> LayerView:
        """What the gate after ``layer_idx`` gets to see."""
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
            received_attention=self.received,
            accumulated_attention=self.accumulated,
            key_norms=self.key_norms,
        )

    def observe(self, received: Tensor | None, key_norms: Tensor | None) -> None:
        """What the layer that has just run did with the current tokens; both [B, N] or None, see ``LayerView``."""
        self.received, self.key_norms = received, key_norms
        if received is not None:
            before = self.accumulated
            self.accumulated = received.detach() if before is None else before + received.detach()

    def apply(self, layer_idx: int, hidden_states: Tensor, decision: Decision, *, remember: bool) -> Tensor:
        """Carry out a decision; returns the states that go on, [B, M, D].

        Args:
            layer_idx: the gated layer.
            hidden_states: [B, N, D].
            decision: of the gate.
            remember: keep the states from before the removal, so that ``restored`` can put dropped tokens back.
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
        return self._remove(layer_idx, hidden_states, decision.keep_mask & self.valid, remember)

    def note_gate(self) -> None:
        """A gate has decided; see ``soft_depth``."""
        if not self.shortened:
            self._openings = (*self._openings, self.log_gates)

    def soft_depth(self) -> Tensor | None:
        """Sum over the gates so far of the ``weights`` behind each, [B, T] float; None once a token was removed."""
        if self.shortened:
            return None
        real = self.valid.float()
        return sum((real if gates is None else real * gates.exp() for gates in self._openings), torch.zeros_like(real))

    def blended(self, hidden_states: Tensor) -> Tensor:
        """What soft gates let through of a layer's work, [B, N, D].

        A dropped token leaves with the state it has, so a gate of 0 keeps the state from before, and a gate of 1 takes
        the new one, as does a token that counts as many; in between the gate mixes them.
        """
        if self.log_gates is None or self.residual_states is None:
            return hidden_states
        weights = self.log_gates.clamp_max(0.0).exp().to(hidden_states.dtype).unsqueeze(-1).expand_as(hidden_states)
        return torch.lerp(self.residual_states.to(hidden_states.dtype), hidden_states, weights)

    def restored(self, hidden_states: Tensor) -> Tensor:
        """States at their original places, [B, T, D]; dropped tokens have the state they left with."""
        for previous, indices, slots in reversed(self._removed):
            hidden_states = restore(hidden_states, previous, indices, slots)
        return hidden_states

    def mask(self, dtype: torch.dtype, *, boolean: bool, window: int | None = None) -> Tensor | None:
        """Attention mask for the current tokens, built once per kept set; None = everything sees everything.

        Args:
            dtype: of an additive mask.
            boolean: whether the implementation takes a boolean mask (True = attend) where no gate is soft.
            window: keys on each side that a query may see, by original position; None = all.

        Returns:
            [B, 1, 1, N] or, with a window, [B, 1, N, N].
        """
        return self.cached((dtype, boolean, window), lambda: self._build_mask(dtype, boolean, window))

    def gate_bias(self, dtype: torch.dtype) -> Tensor | None:
        """What the gates add to the attention logits of each key, [B, N] <= 0; None while every gate is exactly 1."""
        if self.log_gates is None:
            return None
        # closed gates add up: five of them, or one in float16, would reach -inf and so NaN where all keys are closed
        closed = max(torch.finfo(kind).min for kind in (dtype, self.log_gates.dtype)) / 4
        return self.log_gates.clamp_min(closed).to(dtype)

    def cached(self, key: object, build: Callable[[], Cached]) -> Cached:
        """What ``build`` makes for the current tokens, made once until tokens or gates change."""
        if key not in self._cache:
            self._cache[key] = build()
        return cast(Cached, self._cache[key])

    def once(self, key: object, build: Callable[[], Cached]) -> Cached:
        """What ``build`` makes, made once in this forward pass."""
        if key not in self._made_once:
            self._made_once[key] = build()
        return cast(Cached, self._made_once[key])

    def _build_mask(self, dtype: torch.dtype, boolean: bool, window: int | None) -> Tensor | None:
        visible = self.valid[:, None, None, :] if self.padded else None
        if window is not None:
            distance = (self.positions[:, :, None] - self.positions[:, None, :]).abs()
            near = (distance <= window)[:, None]
            # padding far from every real token sees itself: attention without any key is undefined
            visible = near if visible is None else near & (visible | (distance == 0)[:, None])
        if self.log_gates is None:
            if visible is None or boolean:
                return visible
            return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
                ~visible, torch.finfo(dtype).min
            )
        bias = cast(Tensor, self.gate_bias(dtype))[:, None, None, :]
        return bias if visible is None else torch.where(visible, bias, torch.finfo(dtype).min)

    def _remove(self, layer_idx: int, hidden_states: Tensor, keep_mask: Tensor, remember: bool) -> Tensor:
        indices, slots = compact_indices(keep_mask)
        if remember:
            self._removed.append((hidden_states, indices, slots))
        self.positions = compact(self.positions, indices)
        self.protected = compact(self.protected, indices)
        self.valid = torch.ones_like(indices, dtype=torch.bool) if slots is None else slots
        self.protected = self.protected & self.valid
        if self.log_gates is not None:
            self.log_gates = compact(self.log_gates, indices)
        if self.survival is not None:
            self.survival = compact(self.survival, indices) * self.valid
        if self.accumulated is not None:
            self.accumulated = compact(self.accumulated, indices)
        self.received = self.key_norms = None
        self.shortened = True
        self.padded = slots is not None
        self.report.record_kept(layer_idx, self.valid, self.positions)
        return compact(hidden_states, indices)
