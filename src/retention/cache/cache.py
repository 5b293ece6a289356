"""Provide the bounded key-value cache and attach it to a decoder."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from retention.cache.budget import CacheBudget
from retention.cache.families import HeadCounts, attention_modules, decoder_of
from retention.cache.layer import RetentionLayer
from retention.cache.policies.base import CachePolicy, RescoringPolicy
from retention.cache.step import Step
from retention.errors import ConfigError, Problem, require

_CACHE_ARGUMENTS = ("past_key_values", "layer_past")


class RetentionCache(Cache):
    """Key-value cache of at most ``budget.size`` tokens per layer or per key-value head; the policy decides which.

    A token is scored once, when it arrives, so the bank does not depend on the chunks in which a sequence is fed: one
    pass, several chunks and single tokens give the same result up to rounding (of scores too: two tokens whose scores
    differ by less than rounding may change places). A ``RescoringPolicy`` gives this property up. Masks and positions
    are those of the full sequence, padding on either side never enters the bank, and sequences of a batch do not
    influence each other.

    Source: section "Limitations" of Adaptive Retention (arXiv 2510.08798): score on arrival, keep the top M.

    Hooks on the model pass the hidden states to the policy. They act only while this object is passed as
    ``past_key_values``; ``detach`` removes them. ``retain_cache`` does both.

    Args:
        model: a Hugging Face decoder of a supported family, with or without a head.
        policy: gives the scores.
        budget: size, sinks, window and block, of each layer or of each of its key-value heads.

    Raises:
        ConfigError: the model is not supported, or the policy was built for another one.
    """

    def __init__(self, model: nn.Module, policy: CachePolicy, budget: CacheBudget) -> None:
        modules = attention_modules(model)
        decoder = decoder_of(model)
        policy.check(decoder.config)
        heads = HeadCounts.of(decoder.config)
        super().__init__(layers=[RetentionLayer(index, policy, budget, heads) for index in range(len(modules))])
        self.policy = policy
        self.budget = budget
        self._model = model
        self._signature = inspect.signature(decoder.forward)
        self._additive = getattr(decoder.config, "_attn_implementation", "") == "eager"
        self._counts: list[int] = []
        self._step: Step | None = None
        self._hooks = [decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)]
        for index, module in enumerate(modules):
            hook = partial(self._before_attention, index)
            self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        if isinstance(policy, RescoringPolicy):
            policy.check_layer(modules[0], getattr(decoder, "rotary_emb", None))
            for index, module in enumerate(modules):
                after = partial(self._after_attention, index, getattr(decoder, "rotary_emb", None))
                self._hooks.append(module.register_forward_hook(after, with_kwargs=True))

    @property
    def kept(self) -> list[Tensor]:
        """Return the columns of the held tokens, one tensor per layer, ascending; -1 = empty slot, at the end.

        [B, N] long if all heads of a layer hold the same tokens, [B, H, N] for H key-value heads with a budget of their
        own (``CacheBudget.per_head``).
        """
        held = [layer.slots.positions for layer in self._retention_layers if layer.slots is not None]
        return held if self.budget.per_head else [positions.squeeze(1) for positions in held]

    def detach(self) -> None:
        """Remove the hooks; the cache cannot be used after that."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()  # type: ignore[no-untyped-call]
        self._counts, self._step = [], None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the sequences for beam search; ``beam_idx`` [B] long."""
        self._select_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences ``indices`` [B'] (long, or bool [B])."""
        self._select_rows(indices.nonzero().flatten() if indices.dtype is torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence ``repeats`` times, copies side by side."""
        self._select_rows(torch.arange(len(self._counts)).repeat_interleave(repeats))

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
        require(bool(self._hooks), "past_key_values", "a detached cache cannot be copied")
        copy = RetentionCache(self._model, self.policy, self.budget)
        memo[id(self)] = copy
        copy._counts = list(self._counts)
        for new, old in zip(copy._retention_layers, self._retention_layers, strict=True):
            new.slots, new.state, new.seen = deepcopy((old.slots, old.state, old.seen), memo)
            new.is_initialized = old.is_initialized
            if new.slots is not None:
                new.keys, new.values = new.slots.keys, new.slots.values
        return copy

    @property
    def _retention_layers(self) -> list[RetentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, RetentionLayer)]

    def _select_rows(self, rows: Tensor) -> None:
        for layer in self._retention_layers:
            layer.select_rows(rows)
        self._counts = [self._counts[row] for row in rows.tolist()]

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Describe the tokens of this pass, before the model makes its masks."""
        inputs = self._signature.bind_partial(*args, **kwargs).arguments
        if inputs.get("past_key_values") is not self:
            return
        tokens = inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            return  # the model reports it
        (batch, length), start = tokens.shape[:2], self.get_seq_length()
        counts = self._counts or [0] * batch
        message = f"the cache holds {len(counts)} sequences, got a batch of {batch}; call reset() for new ones"
        require(len(counts) == batch, "past_key_values", message)
        mask = inputs.get("attention_mask")
        if mask is not None:
            shape = tuple(mask.shape)
            message = f"must be [{batch}, {start + length}] (all columns so far, and the new ones), got {list(shape)}"
            require(shape == (batch, start + length), "attention_mask", message)
            mask = mask[:, start:].to(tokens.device).bool()
        self._step = Step.build(start, mask, length, counts, tokens.device)
        self._counts = list(self._step.totals)

    def _before_attention(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Pass the hidden states to the layer of the cache and replace the mask."""
        if not any(kwargs.get(name) is self for name in _CACHE_ARGUMENTS):
            return None
        hidden_states = args[0] if args else kwargs["hidden_states"]
        assert self._step is not None
        layer = self._retention_layers[index]
        mask = layer.prepare(self._step, hidden_states, kwargs.get("attention_mask"), additive=self._additive)
        return args, {**kwargs, "attention_mask": mask}

    def _after_attention(
        self,
        index: int,
        rotary: nn.Module | None,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        """Pass the attention of a pass to the layer of the cache, for policies that renew their scores."""
        if any(kwargs.get(name) is self for name in _CACHE_ARGUMENTS):
            self._retention_layers[index].observe(module, rotary, output[1])


@contextmanager
def retain_cache(model: nn.Module, policy: CachePolicy, budget: CacheBudget | None = None) -> Iterator[RetentionCache]:
    """Return a context with a bounded cache for ``model``; leaving it removes the hooks.

    Args:
        model: a Hugging Face decoder of a supported family.
        policy: gives the scores, for example ``KeyNorm()`` or ``LearnedScores.load(path)``.
        budget: size, sinks, window and block; the defaults of ``CacheBudget`` if None.

    Raises:
        ConfigError: the model is not supported, or the policy was built for another one.

    Examples:
        >>> budget = CacheBudget(size=512, sinks=4, window=64)  # doctest: +SKIP
        >>> with retain_cache(model, KeyNorm(), budget) as cache:  # doctest: +SKIP
        ...     model.generate(**inputs, past_key_values=cache, max_new_tokens=100)
    """
    cache = RetentionCache(model, policy, budget or CacheBudget())
    try:
        yield cache
    finally:
        cache.detach()


def _refuse(key: str, message: str) -> NoReturn:
    raise ConfigError([Problem(key, message)])
