"""What the attention of a layer did with the tokens, for gates that ask for it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from retention.engine.adapters.base import Arguments, AttentionParts, parameter_names
from retention.engine.gate import OBSERVABLE
from retention.engine.state import ForwardState
from retention.errors import Checks


class HasState(Protocol):
    """Whoever holds the state of the forward pass."""

    @property
    def state(self) -> ForwardState:
        """Tokens of the current forward pass."""


class LayerObserver:
    """Hooks that reduce the attention of one layer to one number per token while it runs.

    Attention maps are reduced inside the attention module, so that none outlives its layer. Under gradient
    checkpointing the module runs twice: the gates of its queries are therefore read before the layer, where hooks run
    once, and the result is handed over only the first time.

    Args:
        source: holds the state of the forward pass.
        parts: where the layer's attention is.
        observes: names in ``OBSERVABLE``.
    """

    def __init__(self, source: HasState, parts: AttentionParts, observes: Collection[str]) -> None:
        self.source = source
        self.parts = parts
        self.observes = observes
        self.queries: Tensor | None = None
        self.received: Tensor | None = None
        self.key_norms: Tensor | None = None
        self._awaited = False  # whether the layer runs for the first time in this pass
        self._asked = False  # whether the maps are returned only because this observer asked for them

    def attach(self, layer: nn.Module, gated: nn.Module) -> list[RemovableHandle]:
        """Register the hooks; the result is handed over after ``gated``, the layer or its part before a gate."""
        handles = [layer.register_forward_pre_hook(self._before), gated.register_forward_hook(self._after)]
        if "attention" in self.observes:
            module = self.parts.module
            handles.append(module.register_forward_pre_hook(self._ask, with_kwargs=True))
            handles.append(module.register_forward_hook(self._reduce))
        if "keys" in self.observes:
            handles.append(self.parts.keys.register_forward_hook(self._measure))
        return handles

    def _before(self, layer: nn.Module, args: Any) -> None:
        self.queries = self.source.state.weights
        self._awaited = True

    def _after(self, gated: nn.Module, args: Any, output: Any) -> None:
        if self._awaited:
            self.source.state.observe(self.received, self.key_norms)
        self.received = self.key_norms = None
        self._awaited = False

    def _ask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Some families return the maps on request only, always by name."""
        wanted = "output_attentions" in parameter_names(cast(Hashable, type(module)))
        self._asked = wanted and not kwargs.get("output_attentions", False)
        return (args, {**kwargs, "output_attentions": True}) if self._asked else None

    def _reduce(self, module: nn.Module, args: Any, output: Any) -> Any:
        probabilities: Tensor = output[1]
        queries = cast(Tensor, self.queries).to(probabilities.dtype)
        received = torch.einsum("bhqk,bq->bk", probabilities, queries)
        self.received = received.float() / self.parts.heads
        return (output[0], *output[2:]) if self._asked else None

    def _measure(self, module: nn.Module, args: Any, output: Tensor) -> None:
        joined, heads = self.parts.joined, self.parts.heads
        keys = output.view(*output.shape[:2], joined, heads, -1)[:, :, joined // 2]
        self.key_norms = keys.float().norm(dim=-1).mean(-1)


def check_observed(observes: Sequence[str], observable: Collection[str], attention: str | None, family: str) -> None:
    """Raise ``ConfigError`` where a model does not show what a gate observes.

    Args:
        observes: of the gate.
        observable: of the family's adapter.
        attention: implementation in use; None = still open.
        family: shown in messages.
    """
    checks = Checks()
    for name in observes:
        message = f"must be among {', '.join(OBSERVABLE)}, got {name!r}"
        if checks.require(name in OBSERVABLE, "observes", message):
            message = f"this policy reads the {name} of each layer, which {family} does not show; choose another policy"
            checks.require(name in observable, "model_type", message)
    if "attention" in observes:
        message = (
            f"this policy reads attention probabilities, which {attention} never forms; "
            "set attn_implementation=eager (slower, and its memory grows with the square of the length)"
        )
        checks.require(attention in (None, "eager"), "attn_implementation", message)
    checks.finish()
