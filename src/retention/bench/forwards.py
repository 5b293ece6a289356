"""Forward passes through an encoder: as it is, with removal, and with scoring alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from retention.bench.inputs import Batch
from retention.engine import Decision, ForwardReport, Gate, LayerView, Retainer, adapter_for, engine_attention
from retention.policies import RetentionPolicy


class KeepsAll:
    """A gate that asks a policy for its scores and lets everything through: what scoring alone costs."""

    def __init__(self, policy: RetentionPolicy) -> None:
        self.policy = policy
        self.observes = policy.observes

    def begin(self, report: ForwardReport) -> None:
        self.policy.begin(report)

    def decide(self, view: LayerView) -> Decision | None:
        if self.policy.active[self.policy.layers.index(view.layer_idx)]:
            self.policy.score(view)
        return None


class Dense:
    """The encoder as it is, [B, N] -> [B, N, D]."""

    def __init__(self, encoder: Callable[..., Any]) -> None:
        self.encoder: Any = encoder

    def __call__(self, batch: Batch) -> Tensor:
        inputs = adapter_for(self.encoder.config.model_type).inputs(batch)
        states: Tensor = self.encoder(**inputs).last_hidden_state
        return states


class EngineDense(Dense):
    """The encoder with every token, its attention computed as it is where tokens are removed."""

    def __call__(self, batch: Batch) -> Tensor:
        with engine_attention(self.encoder):
            return super().__call__(batch)


class Retained:
    """The encoder with removal, [B, N] -> [B, M, D]; hooks are attached for every batch, as in ``RetentionModule``."""

    def __init__(self, encoder: nn.Module, gate: Gate, layers: tuple[int, ...], prune_at: str = "after_layer") -> None:
        self.dense = Dense(encoder)
        self.retainer = Retainer(encoder, gate, layers=layers, dropped="cut", prune_at=prune_at)

    def __call__(self, batch: Batch) -> Tensor:
        with self.retainer, self.retainer.protect(batch["protected_mask"]):
            return self.dense(batch)
