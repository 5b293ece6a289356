"""Observe the attention of a layer for gates that request it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from retention.core.attention import received_attention
from retention.core.flops import BEFORE_FIRST_LAYER
from retention.engine.adapters.base import Arguments, AttentionParts, parameter_names
from retention.engine.gate import OBSERVABLE, Gate
from retention.engine.hooks import EngineHook
from retention.engine.state import ForwardState, Observation
from retention.errors import require


class Observed(Protocol):
    """Owner of a forward pass and of the gate that observes it; in practice a ``Retainer``."""

    gate: Gate

    def current_state(self) -> ForwardState:
        """Return the state of the forward pass that runs in this thread."""


class LayerObserver:
    """Hooks that reduce the attention of one layer to statistics per token while the layer runs.

    Attention maps are reduced inside the attention module, so that none outlives its layer. Under gradient
    checkpointing the module runs twice. The inputs of the reduction are therefore read before the layer, where hooks
    run once, and kept in the state of the pass.

    Args:
        owner: holds the state of the forward pass and the gate.
        parts: attention modules of the layer.
        observes: names in ``OBSERVABLE``.
    """

    def __init__(self, owner: Observed, parts: AttentionParts, observes: Collection[str]) -> None:
        self.owner = owner
        self.parts = parts
        self.observes = observes

    def attach(self, layer: nn.Module, gated: nn.Module) -> list[RemovableHandle]:
        """Register the hooks; the result is handed over after ``gated``, the part of the layer before a gate."""
        handles = [
            layer.register_forward_pre_hook(EngineHook(self._before)),
            gated.register_forward_hook(EngineHook(self._after)),
        ]
        if "attention" in self.observes:
            module = self.parts.module
            handles.append(module.register_forward_pre_hook(EngineHook(self._request_maps), with_kwargs=True))
            handles.append(module.register_forward_hook(EngineHook(self._reduce)))
        if "keys" in self.observes:
            handles.append(self.parts.keys.register_forward_hook(EngineHook(self._measure_keys)))
        return handles

    def _before(self, layer: nn.Module, args: Any) -> None:
        state = self.owner.current_state()
        previous = None if state.attention_statistics is None else state.attention_statistics.detach()
        state.observation = Observation(query_weights=state.weights, previous=previous)

    def _after(self, gated: nn.Module, args: Any, output: Any) -> None:
        state = self.owner.current_state()
        state.observe(state.observation.statistics, state.observation.key_norms)
        state.observation = Observation()

    def _request_maps(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Set ``output_attentions``, which some families need to return the maps; it is always passed by name."""
        accepted = "output_attentions" in parameter_names(cast(Hashable, type(module)))
        requested = accepted and not kwargs.get("output_attentions", False)
        self.owner.current_state().observation.maps_requested = requested
        return (args, {**kwargs, "output_attentions": True}) if requested else None

    def _reduce(self, module: nn.Module, args: Any, output: Any) -> Any:
        observation = self.owner.current_state().observation
        probabilities: Tensor = output[1]
        query_weights = cast(Tensor, observation.query_weights).to(probabilities.dtype)
        reduce = getattr(self.owner.gate, "reduce_attention", None)
        if reduce is None:
            statistics = received_attention(probabilities, query_weights)
        else:
            statistics = reduce(probabilities, query_weights, observation.previous)
            batch, _, _, length = probabilities.shape
            if statistics.shape[0] != batch or statistics.shape[-1] != length:
                raise ValueError(
                    f"reduce_attention must return a tensor [B, ..., N] with B={batch} and N={length}, "
                    f"got shape {tuple(statistics.shape)}"
                )
        observation.statistics = statistics
        return (output[0], *output[2:]) if observation.maps_requested else None

    def _measure_keys(self, module: nn.Module, args: Any, output: Tensor) -> None:
        joined, heads = self.parts.joined, self.parts.heads
        keys = output.view(*output.shape[:2], joined, heads, -1)[:, :, joined // 2]
        self.owner.current_state().observation.key_norms = keys.float().norm(dim=-1).mean(-1)


def check_observed(observes: Sequence[str], observable: Collection[str], attention: str | None, family: str) -> None:
    """Check that a model can provide what a gate observes.

    Args:
        observes: of the gate.
        observable: of the family's adapter.
        attention: attention implementation in use; None = not chosen yet.
        family: shown in messages.

    Raises:
        ConfigError: it cannot.
    """
    for name in observes:
        require(name in OBSERVABLE, "observes", f"must be among {', '.join(OBSERVABLE)}, got {name!r}")
        message = f"this policy reads the {name} of each layer, which {family} does not provide; choose another policy"
        require(name in observable, "model_type", message)
    message = (
        f"this policy reads attention probabilities, which {attention} attention does not return; "
        "set attn_implementation=eager (slower, and its memory grows with the square of the length)"
    )
    require("attention" not in observes or attention in (None, "eager"), "attn_implementation", message)


def check_observed_layers(observes: Sequence[str], layers: Sequence[int]) -> None:
    """Check that a layer has run before every gate of a policy that observes layers.

    Args:
        observes: of the gate.
        layers: gated layers.

    Raises:
        ConfigError: a gate is before layer 0.
    """
    message = (
        f"this policy reads the {' and '.join(observes)} of the layer before each gate, and no layer runs before gate "
        f"{BEFORE_FIRST_LAYER}; remove {BEFORE_FIRST_LAYER} from the list or choose another policy"
    )
    require(not observes or BEFORE_FIRST_LAYER not in layers, "layers", message)
