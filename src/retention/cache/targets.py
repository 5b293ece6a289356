"""Compute what the scorers of a bounded cache learn from: the attention that tokens receive later.

Targets come from forward passes of the full-cache model alone. Its weights are never changed, and no gradient flows
through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retention.cache.families import HeadCounts, attention_modules
from retention.errors import require


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Tokens and queries that count.

    Attributes:
        sinks: first tokens, which are kept anyway and left out, >= 0.
        window: attention from queries nearer than this does not count, as the token is kept that long anyway, >= 1.
        min_queries: tokens with fewer later queries than this are left out, since their targets are noise, >= 1.

    Raises:
        ConfigError: a number is out of range.
    """

    sinks: int = 4
    window: int = 16
    min_queries: int = 16

    def __post_init__(self) -> None:
        require(self.sinks >= 0, "sinks", f"must be >= 0, got {self.sinks}")
        require(self.window >= 1, "window", f"must be >= 1, got {self.window}")
        require(self.min_queries >= 1, "min_queries", f"must be >= 1, got {self.min_queries}")

    @property
    def shortest_text(self) -> int:
        """Return the number of tokens of the shortest text with two counted tokens."""
        return self.sinks + self.window + self.min_queries + 1


@dataclass(frozen=True)
class Example:
    """Inputs and targets of all L layers for one text of T tokens.

    Attributes:
        hidden_states: [L, T, D] float16, inputs of the attention modules.
        targets: [L, T] float32, log of the mean future attention; [L, H, T] for each of H key-value heads.
        counted: [T] bool, True = part of the loss.
    """

    hidden_states: Tensor
    targets: Tensor
    counted: Tensor


def future_attention(attention: Tensor, window: int) -> Tensor:
    """Compute the log of the mean attention that each token receives after it has left the window.

    Attention of the query at position t is multiplied by t + 1, the number of keys it is divided among, so that tokens
    are comparable over the whole text; 0 stands for uniform attention.

    Args:
        attention: [B, H, T, T] probabilities of the full model, queries before keys.
        window: number of newest tokens that do not count, >= 1.

    Returns:
        [B, T]; the smallest float for tokens without such a query.
    """
    length = attention.shape[-1]
    index = torch.arange(length, device=attention.device)
    later = index.unsqueeze(1) >= index.unsqueeze(0) + window
    weighted = attention.float().mean(1) * (index + 1).unsqueeze(1) * later
    queries = later.sum(0)
    mean = weighted.sum(1) / queries.clamp_min(1)
    floor = torch.finfo(mean.dtype)
    return mean.clamp_min(floor.tiny).log().masked_fill(queries == 0, floor.min)


@torch.no_grad()
def collect_example(
    model: nn.Module, input_ids: Tensor, settings: TargetSettings, *, per_head: bool = False
) -> Example:
    """Run the full model on one text and keep what the scorers learn from.

    Attention maps are reduced layer by layer; only one layer's map is in memory at a time.

    Args:
        model: a supported decoder with eager attention, in evaluation mode.
        input_ids: [1, T] long, without padding.
        settings: sinks, window and min_queries.
        per_head: give targets for each key-value head, the mean over the query heads that read it.

    Raises:
        ConfigError: the model does not compute attention maps, or the text is too short to have targets.
    """
    modules = attention_modules(model)
    config: Any = model.config
    implementation = config._attn_implementation
    message = f"targets are read from attention maps; load the model with eager, got {implementation!r}"
    require(implementation == "eager", "attn_implementation", message)
    counted = counted_tokens(input_ids.shape[1], settings)
    shortest, length = settings.shortest_text, input_ids.shape[1]
    require(length >= shortest, "texts", f"a text must have at least {shortest} tokens, got {length}")
    groups = HeadCounts.of(config).key_value if per_head else 1
    states: list[Tensor] = []
    targets: list[Tensor] = []

    def record(window: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        states.append((args[0] if args else kwargs["hidden_states"])[0].float().cpu())
        attention = output[1][0].unflatten(0, (groups, -1))  # [G, query heads of a group, T, T]
        received = future_attention(attention, window).cpu()
        targets.append(received if per_head else received[0])

    hook = partial(record, settings.window)
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        model(input_ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return Example(torch.stack(states).half(), torch.stack(targets), counted)


def counted_tokens(length: int, settings: TargetSettings) -> Tensor:
    """Return the tokens of a text that are part of the loss, [length] bool."""
    index = torch.arange(length)
    return (index >= settings.sinks) & (length - index - settings.window >= settings.min_queries)


class TargetExamples(Sequence[Example]):
    """Examples of texts that are collected from the full model when they are first used, and then kept.

    Args:
        model: a supported decoder, in evaluation mode; it computes with eager attention while examples are collected.
        texts: token ids [1, T] of each text.
        settings: sinks, window and min_queries.
        per_head: see ``collect_example``.
    """

    def __init__(
        self, model: Any, texts: Sequence[Tensor], settings: TargetSettings, *, per_head: bool = False
    ) -> None:
        self._model, self._texts, self._settings, self._per_head = model, texts, settings, per_head
        self._collected: dict[int, Example] = {}

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def __getitem__(self, index: Any) -> Any:
        """Return the example of one text."""
        position = range(len(self))[index]
        if position not in self._collected:
            before = self._model.config._attn_implementation
            self._model.set_attn_implementation("eager")
            try:
                self._collected[position] = collect_example(
                    self._model, self._texts[position], self._settings, per_head=self._per_head
                )
            finally:
                self._model.set_attn_implementation(before)
        return self._collected[position]
