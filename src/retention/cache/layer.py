"""Provide one layer of the bounded cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from retention.cache.budget import CacheBudget
from retention.cache.eviction import (
    NEVER,
    bank_mask,
    eviction_counts,
    finite_scores,
    leaving_slot,
    visible_mask,
    write_mask,
)
from retention.cache.families import HeadCounts
from retention.cache.fixed import FixedSlots
from retention.cache.policies.base import Arrivals, CachePolicy, Observation, RescoringPolicy
from retention.cache.slots import Slots
from retention.cache.step import Step
from retention.errors import require

_ONE_HEAD = HeadCounts(1, 1)
_NO_HOOKS = (
    "the hooks of this cache are not attached to the model that runs; use the cache within "
    "`with retain_cache(model, ...) as cache`, on that model"
)


@dataclass(frozen=True)
class _Pending:
    """Inputs of the attention module that ``update`` needs: states, and the mask that it fills."""

    step: Step
    hidden_states: Tensor
    mask: Tensor | None


class RetentionLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Hold at most ``budget.size`` tokens of one layer, or of each of its key-value heads.

    These are sinks, window, and the bank of the best scores.

    Tensors are made anew at each eviction, so memory does shrink; in the fixed form single tokens overwrite buffers of
    M slots instead. A chunk of several tokens is attended to with a mask that shows each query exactly the tokens that
    were held when it arrived; during that pass the chunk is in memory beside the bank.

    Args:
        layer_idx: index of the layer, from 0.
        policy: gives the scores.
        budget: size, sinks, window and block.
        heads: of the attention module; needed for a budget per head.
        compileable: True if single tokens are decoded in the fixed form.

    Attributes:
        fixed: the buffers, while single tokens are decoded in the fixed form; None = the tokens are in ``slots``.
        groups: G, number of groups of heads that hold their own tokens: 1, or the number of key-value heads.
    """

    is_croppable = False
    supports_early_init = False

    def __init__(
        self,
        layer_idx: int,
        policy: CachePolicy,
        budget: CacheBudget,
        heads: HeadCounts = _ONE_HEAD,
        *,
        compileable: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layer_idx = layer_idx
        self.policy = policy
        self.budget = budget
        self.groups = heads.key_value if budget.per_head else 1
        self._mask_heads = heads.query if self.groups > 1 else 1
        self.is_compileable = compileable
        self.slots: Slots | None = None
        self.fixed: FixedSlots | None = None
        self._arriving: Tensor | None = None
        self.state: Tensor | None = None
        self.seen = 0
        self._pending: _Pending | None = None
        self._unobserved: _Pending | None = None
        self._rescoring = policy if isinstance(policy, RescoringPolicy) else None

    def prepare(self, step: Step, hidden_states: Tensor, mask: Tensor | None, *, additive: bool) -> Tensor | None:
        """Take the inputs of the attention module and return the mask that it has to use.

        Args:
            step: tokens of this forward pass.
            hidden_states: [B, Q, D], input of the attention module.
            mask: mask that the model has made for the new tokens alone.
            additive: the attention adds its mask to the logits (eager); otherwise the mask is boolean, True = visible.

        Returns:
            [B, heads, Q, keys], heads = 1 where all heads see the same tokens. For several tokens its values are
            written by ``update``, when the scores are known.
        """
        filled = None
        if hidden_states.shape[1] == 1:
            mask = self._single_mask(step, hidden_states, additive)
        elif not (step.is_first_without_padding and (self._rescoring or max(step.totals) <= self.budget.size)):
            width = 0 if self.slots is None else self.slots.ranks.shape[2]
            shape = (len(step.totals), self._mask_heads, hidden_states.shape[1], width + hidden_states.shape[1])
            dtype = hidden_states.dtype if additive else torch.bool
            mask = filled = torch.empty(shape, dtype=dtype, device=hidden_states.device)
        self._pending = _Pending(step, hidden_states, filled)
        return mask

    def prepare_token(self, hidden_states: Tensor) -> Tensor:
        """Take the input [B, 1, D] of the attention module in the fixed form, and return the mask [B, 1, 1, M]."""
        assert self.fixed is not None
        self._arriving = hidden_states
        return self.fixed.mask

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Score and store the new tokens, evict, and return what the attention reads.

        Args:
            key_states: [B, H, Q, D].
            value_states: [B, H, Q, D].
            args: not used.
            kwargs: not used.

        Returns:
            Keys and values: the bank for a single token (all M slots in the fixed form); the bank before and the chunk
            for several.

        Raises:
            ConfigError: the attention module was called without the hooks of the cache.
        """
        if self.fixed is not None:
            return self._overwrite(self.fixed, key_states, value_states)
        pending, self._pending = self._pending, None
        require(pending is not None, "past_key_values", _NO_HOOKS)
        assert pending is not None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step = pending.step
        scores = self._score(pending, key_states, value_states)
        width = 0 if self._rescoring is None else self._rescoring.statistics
        statistics = scores.new_zeros((*scores.shape, width))
        ranks, positions = (values.unsqueeze(1).expand_as(scores) for values in (step.ranks, step.positions))
        new = Slots(key_states, value_states, scores, ranks, positions, statistics)
        joined = new if self.slots is None else self.slots.append(new)
        if pending.mask is not None:
            write_mask(pending.mask, self._visible(joined, step))
        self.seen += key_states.shape[2]
        if self._rescoring is not None:
            self._unobserved = pending
        if self._rescoring is None or key_states.shape[2] == 1:
            self._evict(joined, step)
        else:
            self._store(joined)  # ``observe`` evicts, when the attention is known
        if key_states.shape[2] > 1:
            return joined.keys, joined.values
        if self.slots is None or not self.slots.ranks.shape[2]:  # only padding so far
            return key_states, value_states
        return self.slots.keys, self.slots.values

    def _overwrite(self, fixed: FixedSlots, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a single token into its slot; the cache scores it at the end of the pass, in all layers at once."""
        hidden_states, self._arriving = self._arriving, None
        require(hidden_states is not None, "past_key_values", _NO_HOOKS)
        assert hidden_states is not None
        state = None if fixed.states is None else fixed.states[self.layer_idx]
        arrivals = Arrivals(self.layer_idx, hidden_states, keys, values, fixed.valid, fixed.newest, self.groups, state)
        fixed.write(arrivals)
        return fixed.keys[self.layer_idx], fixed.values[self.layer_idx]

    def observe(self, module: nn.Module, rotary: nn.Module | None, attention: Tensor | None) -> None:
        """Renew the scores of a ``RescoringPolicy`` after the attention of a pass, and evict after a longer one.

        Args:
            module: attention module of the layer.
            rotary: rotary embedding of the decoder; None if it has none.
            attention: [B, heads, Q, N] probabilities; None unless the model uses eager attention.
        """
        pending, self._unobserved = self._unobserved, None
        if pending is None or self._rescoring is None or self.slots is None or not self.slots.ranks.shape[2]:
            return
        step, slots = pending.step, self.slots
        held, counts = slots.ranks >= 0, step.counts[:, -1]
        observation = Observation(
            module,
            rotary,
            pending.hidden_states,
            attention,
            slots.keys,
            slots.values,
            step.valid,
            held,
            counts,
            self.groups,
            self.state,
        )
        with torch.no_grad():
            statistics, scores = self._rescoring.rescore(observation, slots.statistics)
        self.state = observation.state
        slots = replace(slots, statistics=statistics, scores=finite_scores(scores.float()))
        if step.valid.shape[1] > 1:
            self._evict(slots, step)
        else:
            self._store(slots)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note type and device of the keys; tensors are made by the first ``update``."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Return the number of columns seen, padding and evicted tokens included; positions continue from it.

        In the fixed form it is a scalar tensor, as in the static cache of transformers.
        """
        return self.seen if self.fixed is None else self.fixed.seen  # type: ignore[return-value]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the mask that the model makes.

        It covers the new tokens alone, as this layer makes the mask that counts. For a cache that can be compiled,
        ``generate`` passes a mask of four dimensions instead of the mask of the padding; for several tokens it has to
        cover all columns, since padding is read from it.
        """
        if not self.is_compileable:
            return query_length, self.seen
        if self.fixed is not None and query_length == 1:
            return 1, 0
        return int(self.get_seq_length()) + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: sequences of any length can pass."""
        return -1

    def reset(self) -> None:
        """Forget all tokens."""
        self.keys = self.values = self.slots = self.state = self._pending = self._unobserved = None
        self.fixed = self._arriving = None
        self.seen = 0
        self.is_initialized = False

    def fix(self, fixed: FixedSlots) -> None:
        """Go over to the fixed form: ``fixed`` holds the tokens from now on."""
        self.fixed, self.slots, self.state = fixed, None, None
        self.keys, self.values = fixed.keys[self.layer_idx], fixed.values[self.layer_idx]

    def release(self) -> None:
        """Go back from the fixed form to tensors of the size that is held."""
        if self.fixed is not None:
            self.seen, states = int(self.fixed.seen), self.fixed.states
            self.state = None if states is None else states[self.layer_idx].clone()
            self._store(self.fixed.slots(self.layer_idx))
            self.fixed = None

    def select_rows(self, rows: Tensor) -> None:
        """Keep the sequences ``rows`` [B'] long, in that order, with their scores and positions."""
        if self.slots is not None:
            rows = rows.to(self.slots.ranks.device)
            self._store(self.slots.select(rows))
            self.state = None if self.state is None else self.state.index_select(0, rows)

    def _score(self, pending: _Pending, keys: Tensor, values: Tensor) -> Tensor:
        """Return finite scores [B, G, Q] float32 and update the state of the policy."""
        step = pending.step
        arrivals = Arrivals(
            self.layer_idx, pending.hidden_states, keys, values, step.valid, step.ranks, self.groups, self.state
        )
        scores = self.policy.score(arrivals).detach().float()
        batch, queries = step.valid.shape
        shared, grouped = (batch, queries), (batch, self.groups, queries)
        if tuple(scores.shape) not in (shared, grouped):
            remedy = "" if self.budget.per_head else "; scores per key-value head need CacheBudget(per_head=True)"
            message = f"must return a tensor {shared} or {grouped}, got {tuple(scores.shape)}{remedy}"
            require(False, "policy", f"{type(self.policy).__name__}.score {message}")
        self.state = arrivals.state
        return finite_scores(scores if scores.ndim == 3 else scores.unsqueeze(1).expand(grouped))

    def _visible(self, slots: Slots, step: Step) -> Tensor:
        """Return what each query of a pass attends to, [B, G, Q, K] bool."""
        ranks = slots.ranks.flatten(0, 1)
        if self._rescoring is None:
            evicted = eviction_counts(slots.scores.flatten(0, 1), ranks, self.budget)
        else:
            evicted = torch.full_like(ranks, NEVER)  # no token is evicted within a pass
        visible = visible_mask(evicted, ranks, self._by_group(step.counts), self._by_group(step.valid))
        return visible.view(-1, self.groups, *visible.shape[1:])

    def _evict(self, slots: Slots, step: Step) -> None:
        stored, width = self._stored(step), slots.ranks.shape[2]
        same = min(stored) == max(stored)
        if same and stored[0] == width:  # all slots are held
            self._store(slots)
            return
        if same and stored[0] == width - 1 and self.budget.block == 1:
            limit = step.counts[:, -1, None, None] - self.budget.window
            self._store(slots.without(leaving_slot(slots.scores, slots.ranks, limit, self.budget.sinks)))
            return
        counts = self._by_group(step.counts[:, -1])
        keep = bank_mask(slots.scores.flatten(0, 1), slots.ranks.flatten(0, 1), counts, self.budget)
        self._store(slots.compact(keep.view_as(slots.ranks), max(stored)))

    def _by_group(self, values: Tensor) -> Tensor:
        """Repeat values [B, ...] for the groups of each sequence, [B * G, ...]."""
        return values if self.groups == 1 else values.repeat_interleave(self.groups, dim=0)

    def _stored(self, step: Step) -> list[int]:
        return [self.budget.stored(total) for total in step.totals]

    def _store(self, slots: Slots) -> None:
        self.slots, self.keys, self.values = slots, slots.keys, slots.values

    def _single_mask(self, step: Step, hidden_states: Tensor, additive: bool) -> Tensor | None:
        """Return the mask of a single query: None unless sequences hold different numbers of tokens."""
        stored = self._stored(step)
        width = max(stored)
        if min(stored) == width:
            return None
        # a sequence without any token yet attends to empty slots, so that its softmax has an entry
        limits = torch.tensor([count or width for count in stored], device=hidden_states.device)
        visible = torch.arange(width, device=hidden_states.device) < limits[:, None, None, None]
        if not additive:
            return visible
        mask = torch.empty(visible.shape, dtype=hidden_states.dtype, device=hidden_states.device)
        write_mask(mask, visible)
        return mask
