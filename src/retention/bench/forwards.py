"""Forward passes through an encoder: dense, with token removal, and with scoring alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from retention.bench.inputs import Batch
from retention.engine import Decision, ForwardReport, Gate, LayerView, Retainer, adapter_for, engine_attention
from retention.policies import RetentionPolicy


class ScoreOnlyGate:
    """Gate that computes a policy's scores and keeps every token, to measure what scoring alone costs."""

    def __init__(self, policy: RetentionPolicy) -> None:
        self.policy = policy
        self.observes = policy.observes

    def begin(self, report: ForwardReport) -> None:
        """Start a forward pass."""
        self.policy.begin(report)

    def decide(self, view: LayerView) -> Decision | None:
        """Score the tokens and remove none."""
        if self.policy.active[self.policy.layers.index(view.layer_idx)]:
            self.policy.score(view)
        return None


class DenseForward:
    """Run the unchanged encoder, [B, N] -> [B, N, D]."""

    def __init__(self, encoder: Callable[..., Any]) -> None:
        self.encoder: Any = encoder

    def __call__(self, batch: Batch) -> Tensor:
        """Return the last hidden states."""
        inputs = adapter_for(self.encoder.config.model_type).inputs(batch)
        states: Tensor = self.encoder(**inputs).last_hidden_state
        return states


class EngineAttentionForward(DenseForward):
    """Run the encoder with every token, and with the attention that the engine uses when it removes tokens."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the last hidden states."""
        with engine_attention(self.encoder):
            return super().__call__(batch)


class PrunedForward:
    """Run the encoder with token removal, [B, N] -> [B, M, D]; hooks are attached per batch, as in training."""

    def __init__(self, encoder: nn.Module, gate: Gate, layers: tuple[int, ...], prune_at: str = "after_layer") -> None:
        self.dense = DenseForward(encoder)
        self.retainer = Retainer(encoder, gate, layers=layers, dropped="cut", prune_at=prune_at)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the last hidden states of the kept tokens."""
        with self.retainer, self.retainer.protect(batch["protected_mask"]):
            return self.dense(batch)
