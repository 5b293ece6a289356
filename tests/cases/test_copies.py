"""Test that snapshots of a model made inside the context (best model, moving average) keep every token."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.policies import Adaptive, AttentionTopK, RetentionPolicy, Truncate, retain


def saved_and_loaded(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def averaged(model: Any) -> Any:
    return torch.optim.swa_utils.AveragedModel(model).module


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_and_loaded, averaged],
    ids=["deepcopy", "pickle", "torch_save", "weight_averaging"],
)
@pytest.mark.parametrize("policy", [Truncate, Adaptive, AttentionTopK])
def test_copy_made_inside_the_context_keeps_every_token(
    policy: type[RetentionPolicy],
    duplicate: Callable[[Any], Any],
    tiny: Callable[..., Any],
    ids: Tensor,
    states: Callable[..., Tensor],
) -> None:
    model = tiny(attn_implementation="eager")
    dense = states(model, input_ids=ids)
    with retain(model, policy(rho=0.3).eval()):
        inside = states(model, input_ids=ids)
        best = duplicate(model)
        assert torch.equal(states(best, input_ids=ids), dense)
        assert torch.equal(states(model, input_ids=ids), inside) and not torch.equal(inside, dense)
    assert torch.equal(states(best, input_ids=ids), dense)
    assert torch.equal(states(model, input_ids=ids), dense)
    with torch.no_grad():  # the copy has weights of its own
        best.encoder.layer[0].output.dense.weight.zero_()
    assert not torch.equal(states(best, input_ids=ids), dense)
    assert torch.equal(states(model, input_ids=ids), dense)


def test_copy_of_one_layer_has_no_effect_on_the_context(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.3).eval()), torch.no_grad():
        layer = copy.deepcopy(model.encoder.layer[0])
        hidden_states = model.embeddings(input_ids=ids)
        assert layer(hidden_states).shape == hidden_states.shape  # outside of any forward pass of an encoder


def test_copy_after_training_inside_the_context_needs_no_graph(tiny: Callable[..., Any], ids: Tensor) -> None:
    model, policy = tiny().train(), Adaptive(rho=0.5).train()
    policy.phase = "soft"
    with retain(model, policy) as retainer:
        loss = model(input_ids=ids).last_hidden_state.sum()
        clone, policy_clone, _ = copy.deepcopy((model, policy, retainer))
        loss.backward()
    assert all(each.grad is None for each in (*clone.parameters(), *policy_clone.parameters()))
