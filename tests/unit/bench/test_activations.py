"""The count of what a graph holds, on modules small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from retention.bench.activations import Activations, SavedTensors, saved_by
from retention.bench.inputs import make_inputs
from retention.bench.plan import Plan
from retention.bench.training import TrainingStep
from retention.bench.variants import VariantBuilder, specs

FLOAT = 4


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3, bias=False))


def test_each_storage_counts_once_and_weights_do_not(network: nn.Sequential) -> None:
    states = torch.randn(11, 5)
    with SavedTensors(network.parameters()) as saved:
        result = network(states)
        # the first layer saves its input; tanh saves its result, and the last layer saves the same storage again
        assert saved.total_bytes() == FLOAT * 11 * (5 + 7)
        result.sum().backward()
    assert saved.total_bytes() == 0  # the backward pass frees what it has used
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_gradients_are_those_without_counting(network: nn.Sequential) -> None:
    states = torch.randn(11, 5)
    plain = torch.autograd.grad(network(states).square().sum(), network.parameters())
    with SavedTensors(network.parameters()):
        counted = torch.autograd.grad(network(states).square().sum(), network.parameters())
    assert all(torch.equal(first, second) for first, second in zip(plain, counted, strict=True))


def test_a_discarded_part_of_the_graph_does_not_count(network: nn.Sequential) -> None:
    with SavedTensors(network.parameters()) as saved:
        network(torch.randn(100, 5))  # nobody holds the result
        assert saved.total_bytes() == 0


def test_the_account_goes_layer_by_layer(network: nn.Sequential) -> None:
    states = torch.randn(11, 5)
    found = saved_by(lambda: network(states).sum(), list(network), [*network.parameters(), states])
    assert [size * 2**20 for size in found.by_layer] == [0, FLOAT * 11 * 7, FLOAT * 11 * 7]
    assert found.saved_mib * 2**20 == FLOAT * 11 * 7


def test_the_mean_of_steps() -> None:
    steps = [Activations(1.0, (0.5, 1.0)), Activations(3.0, (1.5, 2.0))]
    assert Activations.mean(steps) == Activations(2.0, (1.0, 1.5))


@pytest.fixture
def builder(plan: Callable[..., Plan]) -> VariantBuilder:
    dropouts = ("backbone.fields.hidden_dropout_prob=0", "backbone.fields.attention_probs_dropout_prob=0")
    made = plan(phase="train", policies=("truncate", "adaptive"), rhos=(0.5,), sets=dropouts)
    return VariantBuilder(made, make_inputs(made, 16, 3))


def test_removal_keeps_less_for_the_backward_pass(builder: VariantBuilder) -> None:
    found = {}
    for spec in specs(builder.plan, builder.inputs):
        account = builder.build(spec).activations()
        assert account is not None and len(account.by_layer) == 2
        found[spec.name] = account
    dense, truncate, adaptive = (found[name] for name in ("dense-sdpa", "truncate 0.5", "adaptive 0.5"))
    assert truncate.by_layer[0] == dense.by_layer[0]  # layer 0 sees every token
    own, full = (each.by_layer[1] - each.by_layer[0] for each in (truncate, dense))
    assert 0.45 * full < own < 0.6 * full  # layer 1 sees half of them; which ones is kept, too
    assert truncate.saved_mib < adaptive.saved_mib < dense.saved_mib  # scorers keep something
    assert found["dense-eager"].saved_mib > dense.saved_mib  # eager attention keeps its maps


def test_counting_moves_no_weights(builder: VariantBuilder) -> None:
    spec = specs(builder.plan, builder.inputs)[0]
    variant = builder.build(spec)
    assert isinstance(variant.step, TrainingStep)
    before: list[Tensor] = [parameter.detach().clone() for parameter in variant.step.encoder.parameters()]
    variant.activations()
    for first, second in zip(before, variant.step.encoder.parameters(), strict=True):
        assert torch.equal(first, second) and second.grad is None


def test_inference_keeps_nothing(plan: Callable[..., Plan]) -> None:
    made = plan(policies=("truncate",))
    builder = VariantBuilder(made, make_inputs(made, 16, 3))
    assert builder.build(specs(made, builder.inputs)[0]).activations() is None
