"""Provide the bounded key-value cache and attach it to a decoder."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from retention.cache.budget import CacheBudget
from retention.cache.families import HeadCounts, attention_modules, decoder_of
from retention.cache.fixed import FixedSlots
from retention.cache.hooks import CacheHooks, remove
from retention.cache.layer import RetentionLayer
from retention.cache.policies.base import CachePolicy, RescoringPolicy
from retention.cache.step import Step
from retention.errors import ConfigError, Problem, require, require_object

_NOT_REACHED = (
    "no layer of the model received the cache: under gradient checkpointing in training mode transformers takes it "
    "away; call model.eval() or model.gradient_checkpointing_disable(), then reset() of the cache"
)
_NEW_PROMPT = "call reset() of the cache before another prompt"
_ALL_AGAIN = "with use_cache=False generate passes all tokens again in every step; pass use_cache=True"


class RetentionCache(Cache):
    """Key-value cache of at most ``budget.size`` tokens per layer or per key-value head; the policy decides which.

    A token is scored once, when it arrives, so the bank does not depend on the chunks in which a sequence is fed: one
    pass, several chunks and single tokens give the same result up to rounding (of scores too: two tokens whose scores
    differ by less than rounding may change places). A ``RescoringPolicy`` gives this property up. Masks and positions
    are those of the full sequence, padding on either side never enters the bank, and sequences of a batch do not
    influence each other.

    Source: section "Limitations" of Adaptive Retention (arXiv 2510.08798): score on arrival, keep the top M.

    Hooks on the model (``hooks``) pass the hidden states to the policy. They act only while this object is passed as
    ``past_key_values``; ``detach`` removes them, and warns if the model was called meanwhile, but never with a
    cache of this class. ``retain_cache`` does both, for copies of the cache as well. The hooks do not keep the cache
    alive, and go with it.

    A used cache continues its sequences: call ``reset`` before another prompt. Tokens at positions that the cache has
    read are refused. ``generate`` takes the first tokens of a longer prompt for those that the cache has read, so
    another prompt that is longer than what was read cannot be told from a further turn of a chat, nor can a call of
    the model without ``position_ids``.

    With ``fixed``, single tokens that follow the first pass are decoded in buffers of M slots that are overwritten in
    place. All shapes are constant, so a compiled decoder needs no recompilation as tokens arrive. Passes over several
    tokens, such as the prompt or a further turn of a chat, run in the dynamic form and are not meant to be compiled. It
    is an argument of the cache and not a method to call after the prompt, since ``generate`` reads the prompt and
    decodes in one call, and decides before the prompt whether it compiles the decoder. The tokens held and the results
    are the same up to rounding. ``reset`` keeps the buffers, so that the next sequence of the same batch size needs no
    recompilation either.

    Args:
        model: a Hugging Face decoder of a supported family, with or without a head.
        policy: gives the scores.
        budget: size, sinks, window and block, of each layer or of each of its key-value heads.
        fixed: decode single tokens in buffers of constant shape. All of these tokens must be real, and the policy must
            score on arrival.

    Raises:
        ConfigError: the model is not supported, the policy was built for another one or is no object, or policy or
            block cannot be used with ``fixed``.
    """

    def __init__(self, model: nn.Module, policy: CachePolicy, budget: CacheBudget, *, fixed: bool = False) -> None:
        require_object("policy", policy, CachePolicy, "KeyNorm()")
        require_object("budget", budget, CacheBudget, "CacheBudget(size=512)")
        modules = attention_modules(model)
        decoder = decoder_of(model)
        policy.check(decoder.config)
        if fixed:
            _check_fixed(policy, budget)
        heads = HeadCounts.of(decoder.config)
        super().__init__(
            layers=[RetentionLayer(index, policy, budget, heads, compileable=fixed) for index in range(len(modules))]
        )
        self.policy = policy
        self.budget = budget
        self._model = model
        self._fixed: FixedSlots | None = None
        self._token_scorer = policy.token_scorer()
        self._decoding = False  # True while single tokens are decoded in the fixed form
        self._additive = getattr(decoder.config, "_attn_implementation", "") == "eager"
        self._counts: list[int] = []
        self._step: Step | None = None
        self.fixed = fixed
        rotary = getattr(decoder, "rotary_emb", None)
        if isinstance(policy, RescoringPolicy):
            policy.check_layer(modules[0], rotary)
        self.hooks = CacheHooks(decoder)
        self._handles = self.hooks.register(decoder, modules, rotary, rescoring=isinstance(policy, RescoringPolicy))
        weakref.finalize(self, remove, self._handles)
        self._copies = weakref.WeakSet([self])  # shared by the copies of a cache

    @property
    def kept(self) -> list[Tensor]:
        """Return the columns of the held tokens, one tensor per layer, ascending; -1 = empty slot, at the end.

        [B, N] long if all heads of a layer hold the same tokens, [B, H, N] for H key-value heads with a budget of their
        own (``CacheBudget.per_head``).
        """
        if (fixed := self._buffers) is not None:
            held = [fixed.slots(index).positions for index in range(len(self.layers))]
        else:
            held = [layer.slots.positions for layer in self._retention_layers if layer.slots is not None]
        return held if self.budget.per_head else [positions.squeeze(1) for positions in held]

    def detach(self) -> None:
        """Remove the hooks; the cache cannot be used after that.

        Warns if the model was called meanwhile, but never with a cache of this class.
        """
        remove(self._handles)
        if self.hooks.passed_over and not self.hooks.used:
            self.hooks.passed_over = False
            message = (
                "the model was called without its RetentionCache and held all tokens; pass the cache to every call, "
                "model.generate(..., past_key_values=cache)"
            )
            warnings.warn(message, UserWarning, stacklevel=2)

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()  # type: ignore[no-untyped-call]
        self._counts, self._step, self._decoding = [], None, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the sequences for beam search; ``beam_idx`` [B] long."""
        self._select_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences ``indices`` [B'] (long, or bool [B])."""
        self._select_rows(indices.nonzero().flatten() if indices.dtype is torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence ``repeats`` times, copies side by side."""
        rows = len(self._counts) if self._buffers is None else len(self._buffers.counts)
        self._select_rows(torch.arange(rows).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """Refuse: evicted tokens cannot be brought back.

        Raises:
            ConfigError: always.
        """
        _refuse("crop", "evicted tokens cannot be brought back, so assisted decoding is not possible with this cache")

    def activate_past_recording(self) -> NoReturn:
        """Refuse, see ``crop``; assisted decoding asks for it.

        Raises:
            ConfigError: always.
        """
        self.crop(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> RetentionCache:
        """Copy the tokens, for example to reuse a common prompt; the copy shares model and policy."""
        require(bool(self._handles), "past_key_values", "a detached cache cannot be copied")
        copy = RetentionCache(self._model, self.policy, self.budget, fixed=self.fixed)
        memo[id(self)] = copy
        copy._copies = self._copies
        copy._copies.add(copy)
        copy._counts, copy._decoding, copy.hooks.used = list(self._counts), self._decoding, self.hooks.used
        if (fixed := self._buffers) is not None:
            copy._fixed = copied = deepcopy(fixed, memo)
            for new, old in zip(copy._retention_layers, self._retention_layers, strict=True):
                new.is_initialized = old.is_initialized
                new.fix(copied)
            return copy
        for new, old in zip(copy._retention_layers, self._retention_layers, strict=True):
            new.slots, new.state, new.seen = deepcopy((old.slots, old.state, old.seen), memo)
            new.is_initialized = old.is_initialized
            if new.slots is not None:
                new.keys, new.values = new.slots.keys, new.slots.values
        return copy

    @property
    def _buffers(self) -> FixedSlots | None:
        """Return the buffers of constant shape while they hold the tokens; None if the layers do."""
        return self._fixed if self._decoding else None

    @property
    def _retention_layers(self) -> list[RetentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, RetentionLayer)]

    def _select_rows(self, rows: Tensor) -> None:
        if (fixed := self._buffers) is not None:
            self._fix(fixed.select(rows))
            return
        for layer in self._retention_layers:
            layer.select_rows(rows)
        self._counts = [self._counts[row] for row in rows.tolist()]

    def before_pass(self, call: dict[str, Any]) -> None:
        """Describe the tokens of a pass, before the model makes its masks.

        Args:
            call: arguments of the decoder by name.
        """
        tokens = call.get("input_ids")
        tokens = call.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            return  # the model reports it
        mask = call.get("attention_mask")
        if isinstance(mask, dict):  # made by ``generate``, by type of layer
            message = f"layers of other types than full_attention are not supported, got masks for {', '.join(mask)}"
            require(set(mask) == {"full_attention"}, "attention_mask", message)
            mask = mask["full_attention"]
        if tokens.shape[1] == 0:  # ``generate`` passes none of a prompt much shorter than what the cache has read
            _refuse("past_key_values", _other_prompt(int(self.get_seq_length())))
        positions = call.get("position_ids")
        if (fixed := self._buffers) is not None:
            if tokens.shape[1] == 1:
                self._start_token(fixed, len(tokens), mask, positions)
                return
            self._release(fixed)
        (batch, length), start = tokens.shape[:2], self.get_seq_length()
        passed_again = start > 0 and call.get("use_cache") is False
        counts = self._counts or [0] * batch
        require(len(counts) == batch, "past_key_values", _other_batch(len(counts), batch))
        if mask is not None:
            if self.fixed and mask.ndim == 4:  # made by ``generate``: the last query sees all tokens but padding
                mask = mask[:, 0, -1] if mask.dtype is torch.bool else mask[:, 0, -1] == 0
            shape = tuple(mask.shape)
            columns = f"[{batch}, {start + length}] (all columns so far, and the new ones)"
            message = f"must be {columns}, got {list(shape)}; {_ALL_AGAIN if passed_again else _NEW_PROMPT}"
            require(shape == (batch, start + length), "attention_mask", message)
            mask = mask[:, start:].to(tokens.device).bool()
        step = Step.build(start, mask, length, counts, tokens.device)
        if start > 0 and positions is not None:
            _check_positions(positions, step.valid, torch.tensor(counts), _ALL_AGAIN if passed_again else "")
        self.hooks.used, self._step = True, step

    def _start_token(self, fixed: FixedSlots, batch: int, mask: Any, positions: Tensor | None) -> None:
        rows = len(fixed.valid)
        require(rows == batch, "past_key_values", _other_batch(rows, batch))
        if mask is not None and mask.ndim == 2 and not torch.compiler.is_compiling():
            message = "decoded tokens must be real with fixed=True, but the mask of the newest column has a 0"
            require(bool(mask[:, -1].all()), "attention_mask", message)
        if positions is not None and not torch.compiler.is_compiling():
            _check_positions(positions, fixed.valid, fixed.counts)
        fixed.start_token()

    def after_pass(self) -> None:
        """Score a token in the fixed form, or go over to this form after another pass."""
        if (fixed := self._buffers) is not None:
            require(bool(fixed.arrivals), "past_key_values", _NOT_REACHED)
            fixed.finish_token(self._token_scorer)
            return
        if self._step is None:
            return
        require(self.get_seq_length() > self._step.start, "past_key_values", _NOT_REACHED)
        self._counts = list(self._step.totals)
        if not self.fixed:
            return
        layers = self._retention_layers
        slots = [layer.slots for layer in layers if layer.slots is not None]
        states = [layer.state for layer in layers]
        new = FixedSlots.build(slots, states, self._counts, self.get_seq_length(), self.budget, additive=self._additive)
        self._fix(self._fixed if self._fixed is not None and self._fixed.overwrite(new) else new)

    def _fix(self, fixed: FixedSlots) -> None:
        if fixed is not self._fixed:
            fixed.keep_addresses()
        self._fixed, self._decoding = fixed, True
        for layer in self._retention_layers:
            layer.fix(fixed)

    def _release(self, fixed: FixedSlots) -> None:
        self._counts, self._decoding = fixed.counts.tolist(), False
        for layer in self._retention_layers:
            layer.release()

    def attention_mask(self, index: int, hidden_states: Tensor, mask: Tensor | None) -> Tensor | None:
        """Pass the input of an attention module to its layer of the cache; return the mask that it has to use."""
        layer = cast(RetentionLayer, self.layers[index])
        if self._decoding:
            return layer.prepare_token(hidden_states)
        assert self._step is not None
        return layer.prepare(self._step, hidden_states, mask, additive=self._additive)

    def after_attention(self, index: int, rotary: nn.Module | None, module: nn.Module, attention: Any) -> None:
        """Pass the attention of a pass to the layer of the cache, for policies that renew their scores."""
        self._retention_layers[index].observe(module, rotary, attention)


@contextmanager
def retain_cache(
    model: nn.Module, policy: CachePolicy, budget: CacheBudget | None = None, *, fixed: bool = False
) -> Iterator[RetentionCache]:
    """Return a context with a bounded cache for ``model``; leaving it detaches the cache and its copies.

    Args:
        model: a Hugging Face decoder of a supported family; also inside a PEFT or compiled model.
        policy: gives the scores, for example ``KeyNorm()`` or ``LearnedScores.load(path)``.
        budget: size, sinks, window and block; the defaults of ``CacheBudget`` if None.
        fixed: decode single tokens in buffers of constant shape, see ``RetentionCache``.

    Raises:
        ConfigError: the model is not supported, the policy was built for another one, or policy or block cannot be used
            with ``fixed``.

    Examples:
        >>> budget = CacheBudget(size=512, sinks=4, window=64)  # doctest: +SKIP
        >>> with retain_cache(model, KeyNorm(), budget) as cache:  # doctest: +SKIP
        ...     model.generate(**inputs, past_key_values=cache, max_new_tokens=100)
    """
    cache = RetentionCache(model, policy, budget or CacheBudget(), fixed=fixed)
    try:
        yield cache
    finally:
        for copy in cache._copies:
            remove(copy._handles)
        cache.detach()


def _check_fixed(policy: CachePolicy, budget: CacheBudget) -> None:
    name = type(policy).__name__
    message = f"{name} renews its scores with every pass; choose a policy that scores on arrival"
    require(not isinstance(policy, RescoringPolicy), "fixed", message)
    message = f"each token overwrites another one, so no block of {budget.block} can be evicted; set block to 1"
    require(budget.block == 1, "fixed", message)


def _check_positions(positions: Tensor, valid: Tensor, counts: Tensor, reason: str = "") -> None:
    """Raise ``ConfigError`` if new tokens have positions of tokens that the cache has read.

    Args:
        positions: [B, Q] or [1, Q] long, of the new tokens.
        valid: [B, Q] bool, True = real token.
        counts: [B] long, real tokens that the cache has read.
        reason: why they may have; empty = they seem to be of another prompt.
    """
    repeated = (positions < counts.to(positions.device).unsqueeze(1)) & valid.to(positions.device)
    if bool(repeated.any()):
        _refuse("past_key_values", reason or _other_prompt(int(counts.max())))


def _other_prompt(count: int) -> str:
    return (
        f"the cache has read {count} tokens, which the new ones do not follow, as if they were of another prompt; call "
        "reset() before one. To continue, pass all tokens so far to generate"
    )


def _other_batch(held: int, batch: int) -> str:
    return f"the cache holds {held} sequences, got a batch of {batch}; call reset() for new ones"


def _refuse(key: str, message: str) -> NoReturn:
    raise ConfigError([Problem(key, message)])
