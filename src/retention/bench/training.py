"""One training step: forward, backward, AdamW."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from retention.policies import RetentionPolicy

_RATE = 1e-6  # the cost does not depend on it; the weights should stay sane over many rounds


class TrainingStep:
    """A step in the removal phase, whose forward pass is that of inference with a straight-through gradient.

    The labels are all class 0: they do not change the cost.

    Args:
        forward: batch -> states [B, M, D], the first token of each text first.
        optimizer: of the encoder, shared by all variants, so that its state is in memory once.
        policy: trained as well where it has parameters; None = dense.
        hidden_size: D.
    """

    def __init__(
        self,
        forward: Callable[[dict[str, Tensor]], Tensor],
        optimizer: Optimizer,
        policy: RetentionPolicy | None,
        hidden_size: int,
    ) -> None:
        self.forward = forward
        self.policy = policy
        device = optimizer.param_groups[0]["params"][0].device
        self.head = nn.Linear(hidden_size, 2).to(device)
        own = [*self.head.parameters(), *(() if policy is None else policy.parameters())]
        self.optimizers = (optimizer, AdamW(own, lr=_RATE))

    @staticmethod
    def optimizer_of(encoder: nn.Module) -> Optimizer:
        """AdamW over what is trained of an encoder."""
        return AdamW([parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=_RATE)

    def __call__(self, batch: dict[str, Tensor]) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        logits = self.head(self.forward(batch)[:, 0])
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        if self.policy is not None and self.policy.constrained:
            loss = loss + self.policy.budget_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
