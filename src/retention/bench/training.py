"""Run one training step: forward, backward, AdamW."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from retention.bench.activations import Activations, measure_saved_activations
from retention.engine import adapter_for
from retention.policies import RetentionPolicy

_LEARNING_RATE = 1e-6  # the time does not depend on it; small, so that the weights stay finite over many rounds


class TrainingStep:
    """Training step with hard pruning: the forward pass of inference, gradients by the straight-through estimator.

    Weights are float32; half precision means autocast around the forward pass. All labels are class 0, which does not
    change the time.

    Args:
        forward: batch -> states [B, M, D], the first token of each sequence first.
        encoder: trained by every step.
        optimizer: optimizer of the encoder, shared by all variants, so that its state is in memory once.
        policy: trained as well where it has parameters; None = dense.
        hidden_size: D.
        dtype: of the forward pass.
    """

    def __init__(
        self,
        forward: Callable[[dict[str, Tensor]], Tensor],
        encoder: nn.Module,
        optimizer: Optimizer,
        policy: RetentionPolicy | None,
        hidden_size: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.forward = forward
        self.encoder = encoder
        self.policy = policy
        self.dtype = dtype
        self.device = optimizer.param_groups[0]["params"][0].device
        self.head = nn.Linear(hidden_size, 2).to(self.device)
        parameters = [*self.head.parameters(), *(() if policy is None else policy.parameters())]
        self.optimizers = (optimizer, AdamW(parameters, lr=_LEARNING_RATE))

    @staticmethod
    def optimizer_of(encoder: nn.Module) -> Optimizer:
        """Build AdamW over the trainable parameters of an encoder."""
        return AdamW([parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=_LEARNING_RATE)

    def __call__(self, batch: dict[str, Tensor]) -> None:
        """Run forward and backward pass and update the weights."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the loss, a scalar: cross-entropy and the policy's budget loss."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.head(self.forward(batch)[:, 0])
            labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
            loss = F.cross_entropy(logits, labels)
            if self.policy is not None and self.policy.constrained:
                loss = loss + self.policy.budget_loss()
        return loss

    def activations(self, batch: dict[str, Tensor]) -> Activations:
        """Measure what a step on this batch saves for its backward pass, without weights and the batch itself."""
        modules = (self.encoder, self.head, *(() if self.policy is None else (self.policy,)))
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        layers = adapter_for(self.encoder.config.model_type).layers(self.encoder)  # type: ignore[union-attr, arg-type]
        return measure_saved_activations(lambda: self.loss(batch), layers, [*weights, *batch.values()])
