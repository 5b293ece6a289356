"""Test that recomputing layers in the backward pass gives the same loss and gradients: gates are sampled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Retainer, adapters

RECOMPUTING = ("bert", "distilbert", "modernbert", "deberta-v2", "longformer", "t5")


def loss_and_gradients(encoder: Any, retainer: Retainer, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one training pass with a fixed seed for dropout and gates."""
    policy: Any = retainer.gate
    named = [*encoder.named_parameters(), *policy.named_parameters(prefix="policy")]
    for _, parameter in named:
        parameter.grad = None
    torch.manual_seed(4)
    direction = torch.randn(23, 32)
    with retainer:
        loss: Tensor = (encoder(**batch).last_hidden_state * direction).sum()
        loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


# the method that every supported version of the library has
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("phase", ["soft", "hard"])
@pytest.mark.parametrize(
    ("recomputing", "prune_at"),
    [(family, prune_at) for family in RECOMPUTING for prune_at in adapters()[family].prune_points],
)
def test_checkpointing_gives_the_same_loss_and_gradients(
    recomputing: str,
    prune_at: str,
    phase: str,
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    encoder: Any = build(recomputing).train()
    policy, batch = policy_named("adaptive"), make_batch(encoder)
    retainer = attach(encoder, policy, protected_ids=[3], prune_at=prune_at)
    policy.train()
    policy.phase = phase
    plain_loss, plain = loss_and_gradients(encoder, retainer, batch)
    encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss, gradients = loss_and_gradients(encoder, retainer, batch)
    assert encoder.is_gradient_checkpointing and torch.equal(loss, plain_loss)
    assert plain.keys() == gradients.keys()
    assert sum(float(value.abs().sum()) for name, value in plain.items() if name.startswith("policy.")) > 1e-2
    for name, expected in plain.items():
        torch.testing.assert_close(gradients[name], expected, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
