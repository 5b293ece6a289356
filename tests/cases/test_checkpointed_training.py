"""Test gradient checkpointing with several passes before the backward pass, after the context, and reentrant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.equivalence.conftest import TINY
from torch import Tensor

from retention.policies import Adaptive, KeyNorm, Random, RetentionPolicy, retain

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
POLICIES: dict[str, Callable[[], RetentionPolicy]] = {
    "key_norm": lambda: KeyNorm(rho=0.5).eval(),
    "adaptive": lambda: Adaptive(rho=0.5).train(),
}


def two_encodes(
    model: Any, policy: RetentionPolicy, prune_at: str, *, inside: bool = True, widths: tuple[int, int] = (14, 14)
) -> Tensor:
    """Encode two batches, sum their losses, run one backward pass and return all gradients."""
    torch.manual_seed(5)
    batches = [torch.randint(5, 50, (4, width), generator=torch.Generator().manual_seed(width)) for width in widths]
    loss = torch.zeros(())
    with retain(model, policy, prune_at=prune_at, protected_ids=[1]):
        for number, batch in enumerate(batches):
            mask = torch.ones_like(batch)
            mask[2 * number : 2 * number + 2, 5:] = 0
            states = model(input_ids=batch, attention_mask=mask).last_hidden_state
            loss = loss + (states * torch.randn(32)).sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    parameters = [*model.parameters(), *policy.parameters()]
    return torch.cat([each.grad.flatten() for each in parameters if each.grad is not None])


@pytest.mark.parametrize("inside", [True, False], ids=["backward_inside", "backward_after_the_context"])
@pytest.mark.parametrize("widths", [(14, 14), (14, 9)], ids=["same_shape", "other_shape"])
@pytest.mark.parametrize("prune_at", ["after_layer", "after_attention"])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_two_encodes_and_one_backward_give_the_same_gradients(
    name: str, prune_at: str, widths: tuple[int, int], inside: bool, tiny: Callable[..., Any]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny(attn_implementation="eager").train()
        torch.manual_seed(1)
        policy = POLICIES[name]()
        policy.phase = "soft"
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        gradients.append(two_encodes(model, policy, prune_at, inside=inside, widths=widths))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-5
    other = two_encodes(tiny(attn_implementation="eager").train(), KeyNorm(rho=0.3).eval(), prune_at)
    assert (other[:1000] - gradients[0][:1000]).norm() / gradients[0][:1000].norm() > 1e-2  # the negative control


@pytest.mark.parametrize("family", ["deberta-v2", "longformer", "modernbert", "t5"])
def test_backward_after_the_context_recomputes_replaced_parts(family: str) -> None:
    """Families whose attention or position bias the engine replaces need the replacement again."""
    from transformers import AutoConfig, AutoModel

    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        no_dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        config = AutoConfig.for_model(family, **{**TINY[family], **({} if family == "t5" else no_dropout)})
        model: Any = AutoModel.from_config(config, attn_implementation="eager").train()
        encoder = model.get_encoder() if family == "t5" else model
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(1)
        policy = Adaptive(rho=0.5).train()
        policy.phase = "soft"
        gradients.append(two_encodes(encoder, policy, "after_layer", inside=False, widths=(14, 9)))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-5


@pytest.mark.parametrize(
    ("policy", "prune_at"),
    [(lambda: Adaptive(rho=0.5).train(), "after_layer"), (lambda: Random(rho=0.5).eval(), "after_attention")],
    ids=["learned_gates", "after_attention"],
)
def test_reentrant_checkpointing_is_refused_where_it_loses_gradients(
    policy: Callable[[], RetentionPolicy], prune_at: str, tiny: Callable[..., Any]
) -> None:
    model = tiny().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(RuntimeError, match="'use_reentrant': False"):
        two_encodes(model, policy(), prune_at)


def test_reentrant_checkpointing_is_exact_without_learned_gates(tiny: Callable[..., Any]) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        gradients.append(two_encodes(model, Random(rho=0.5).eval(), "after_layer", inside=False))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_graph_of_a_checkpointed_pass_is_freed(tiny: Callable[..., Any]) -> None:
    """Without a backward pass too: no cycle between the graph and the policy."""
    import gc
    import weakref

    model = tiny().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = Adaptive(rho=0.5).train()
    policy.phase = "soft"
    with retain(model, policy) as retainer:
        states = model(input_ids=torch.randint(5, 50, (2, 14))).last_hidden_state
    gone = weakref.ref(retainer)
    del model, policy, retainer, states
    gc.collect()
    assert gone() is None
