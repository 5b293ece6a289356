"""Check the bytes that autograd saves against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from retention.bench.activations import Activations, SavedTensors, measure_saved_activations
from retention.bench.inputs import make_inputs
from retention.bench.plan import BenchPlan
from retention.bench.training import TrainingStep
from retention.bench.variants import VariantBuilder, list_variants

FLOAT = 4


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3, bias=False))


def test_saved_storages_count_once_without_weights(network: nn.Sequential) -> None:
    states = torch.randn(11, 5)
    with SavedTensors(network.parameters()) as saved:
        result = network(states)
        # the first layer saves its input; tanh saves its result, and the last layer saves the same storage again
        assert saved.total_bytes() == FLOAT * 11 * (5 + 7)
        result.sum().backward()
    assert saved.total_bytes() == 0  # the backward pass frees what it has used
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_gradients_are_unchanged_by_counting(network: nn.Sequential) -> None:
    states = torch.randn(11, 5)
    plain = torch.autograd.grad(network(states).square().sum(), network.parameters())
    with SavedTensors(network.parameters()):
        counted = torch.autograd.grad(network(states).square().sum(), network.parameters())
    assert all(torch.equal(first, second) for first, second in zip(plain, counted, strict=True))


def test_discarded_graph_does_not_count(network: nn.Sequential) -> None:
    with SavedTensors(network.parameters()) as saved:
        network(torch.randn(100, 5))  # the result is discarded
        assert saved.total_bytes() == 0


def test_saved_bytes_are_reported_by_layer(network: nn.Sequential) -> None:
    states = torch.randn(11, 5)
    activations = measure_saved_activations(
        lambda: network(states).sum(), list(network), [*network.parameters(), states]
    )
    assert [size * 2**20 for size in activations.by_layer] == [0, FLOAT * 11 * 7, FLOAT * 11 * 7]
    assert activations.saved_mib * 2**20 == FLOAT * 11 * 7


def test_mean_of_steps() -> None:
    steps = [Activations(1.0, (0.5, 1.0)), Activations(3.0, (1.5, 2.0))]
    assert Activations.mean(steps) == Activations(2.0, (1.0, 1.5))


@pytest.fixture
def builder(plan: Callable[..., BenchPlan]) -> VariantBuilder:
    dropouts = ("backbone.fields.hidden_dropout_prob=0", "backbone.fields.attention_probs_dropout_prob=0")
    made = plan(phase="train", policies=("truncate", "adaptive"), rhos=(0.5,), sets=dropouts)
    return VariantBuilder(made, make_inputs(made, 16, 3))


def test_pruning_saves_fewer_activations(builder: VariantBuilder) -> None:
    activations = {}
    for spec in list_variants(builder.plan, builder.inputs):
        measured = builder.build(spec).activations()
        assert measured is not None and len(measured.by_layer) == 2
        activations[spec.name] = measured
    dense, truncate, adaptive = (activations[name] for name in ("dense-sdpa", "truncate 0.5", "adaptive 0.5"))
    assert truncate.by_layer[0] == dense.by_layer[0]  # layer 0 sees every token
    pruned, full = (each.by_layer[1] - each.by_layer[0] for each in (truncate, dense))
    assert 0.45 * full < pruned < 0.6 * full  # layer 1 sees half of them; the kept indices are saved as well
    assert truncate.saved_mib < adaptive.saved_mib < dense.saved_mib  # scorers save activations
    assert activations["dense-eager"].saved_mib > dense.saved_mib  # eager attention saves its probabilities


def test_measuring_activations_leaves_weights_unchanged(builder: VariantBuilder) -> None:
    spec = list_variants(builder.plan, builder.inputs)[0]
    variant = builder.build(spec)
    assert isinstance(variant.step, TrainingStep)
    before: list[Tensor] = [parameter.detach().clone() for parameter in variant.step.encoder.parameters()]
    variant.activations()
    for first, second in zip(before, variant.step.encoder.parameters(), strict=True):
        assert torch.equal(first, second) and second.grad is None


def test_inference_has_no_activations(plan: Callable[..., BenchPlan]) -> None:
    made = plan(policies=("truncate",))
    builder = VariantBuilder(made, make_inputs(made, 16, 3))
    assert builder.build(list_variants(made, builder.inputs)[0]).activations() is None
