"""Test the closed forms of the Hard-Concrete gate against sampling, numeric integration and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from retention.core.hard_concrete import GateConfig, HardConcrete, log_gate
from retention.core.settings import FlatConfig
from retention.errors import ConfigError

GATES = [
    HardConcrete(),
    HardConcrete(beta=0.2, gamma=-0.3, zeta=1.4),
    HardConcrete(beta=1.5, gamma=-0.05, zeta=1.05),
    HardConcrete(beta=0.4, gamma=-0.5, zeta=1.02),
]
LOGITS = torch.tensor([-6.0, -2.5, -0.7, 0.0, 0.4, 1.8, 5.0], dtype=torch.float64)
DRAWS = 100_000

each_gate = pytest.mark.parametrize("gate", GATES, ids=lambda gate: f"{gate.beta}/{gate.gamma}/{gate.zeta}")


def draws(gate: HardConcrete) -> Tensor:
    """Sample gates [DRAWS, len(LOGITS)] with a fixed seed."""
    generator = torch.Generator().manual_seed(11)
    uniform = torch.rand(DRAWS, len(LOGITS), generator=generator, dtype=torch.float64)
    return gate.sample(LOGITS.expand(DRAWS, -1), uniform)


def assert_within_four_sigma(sample: Tensor, expected: Tensor) -> None:
    """Assert that the mean over rows is within four standard errors, plus one draw for events that never occurred."""
    sigma = sample.std(0) / DRAWS**0.5
    assert ((sample.mean(0) - expected).abs() <= 4 * sigma + 4 / DRAWS).all()


@each_gate
def test_probabilities_match_sampling(gate: HardConcrete) -> None:
    gates = draws(gate)
    assert_within_four_sigma((gates == 0).double(), gate.prob_zero(LOGITS))
    assert_within_four_sigma((gates > 0).double(), gate.prob_nonzero(LOGITS))
    assert_within_four_sigma((gates == 1).double(), gate.prob_one(LOGITS))


@each_gate
def test_expectation_matches_sampling(gate: HardConcrete) -> None:
    assert_within_four_sigma(draws(gate), gate.expected(LOGITS))


@each_gate
def test_expectation_matches_a_fine_integral_over_the_noise(gate: HardConcrete) -> None:
    count = 400_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    y = torch.sigmoid((LOGITS + torch.logit(uniform).unsqueeze(1)) / gate.beta)
    integral = (y * (gate.zeta - gate.gamma) + gate.gamma).clamp(0, 1).mean(0)
    torch.testing.assert_close(gate.expected(LOGITS), integral, atol=1e-6, rtol=0)


@each_gate
def test_zero_and_nonzero_are_complements_and_one_is_rarer_than_nonzero(gate: HardConcrete) -> None:
    torch.testing.assert_close(gate.prob_zero(LOGITS) + gate.prob_nonzero(LOGITS), torch.ones_like(LOGITS))
    assert (gate.prob_one(LOGITS) < gate.prob_nonzero(LOGITS)).all()


@each_gate
def test_gradients_match_finite_differences(gate: HardConcrete) -> None:
    logits = LOGITS.clone().requires_grad_()
    uniform = torch.linspace(0.13, 0.91, len(LOGITS), dtype=torch.float64)
    for function in (gate.expected, gate.prob_zero, gate.prob_one, lambda s: gate.sample(s, uniform)):
        assert torch.autograd.gradcheck(function, (logits,), atol=1e-7)


@each_gate
def test_pathwise_gradient_is_unbiased_for_the_expectation(gate: HardConcrete) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = LOGITS.expand(DRAWS, -1).clone().requires_grad_()
    uniform = torch.rand(DRAWS, len(LOGITS), generator=generator, dtype=torch.float64)
    (pathwise,) = torch.autograd.grad(gate.sample(logits, uniform).sum(), logits)
    exact = LOGITS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(gate.expected(exact).sum(), exact)
    assert_within_four_sigma(pathwise, expected)


def test_samples_contain_exact_zeros_and_ones_and_follow_the_global_seed() -> None:
    torch.manual_seed(3)
    first = HardConcrete().sample(torch.zeros(500))
    torch.manual_seed(3)
    assert torch.equal(first, HardConcrete().sample(torch.zeros(500)))
    assert (first == 0).any() and (first == 1).any() and ((first > 0) & (first < 1)).any()


def test_extreme_uniform_numbers_give_finite_gates() -> None:
    gates = HardConcrete().sample(torch.tensor([50.0, -50.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert gates.tolist() == [1.0, 0.0, 0.0]


def test_deterministic_gate_is_the_stretched_sigmoid() -> None:
    value = HardConcrete(gamma=-0.1, zeta=1.1).deterministic(torch.tensor([-9.0, 0.0, 9.0]))
    torch.testing.assert_close(value, torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_gate_removes_or_keeps_exactly(dtype: torch.dtype) -> None:
    bias = log_gate(torch.tensor([0.0, 1.0], dtype=dtype))
    assert bias[1] == 0 and torch.isfinite(bias).all()
    weights = torch.softmax(torch.tensor([80.0, -80.0], dtype=dtype) + bias, 0)
    assert weights.tolist() == [0.0, 1.0]


def test_log_gate_has_finite_gradients() -> None:
    gates = torch.tensor([0.0, 0.25, 1.0], requires_grad=True)
    torch.softmax(log_gate(gates), 0)[1].backward()
    assert gates.grad is not None and torch.isfinite(gates.grad).all()
    assert gates.grad[0] == 0
    (slope,) = torch.autograd.grad(log_gate(gates).sum(), gates)
    torch.testing.assert_close(slope, torch.tensor([0.0, 4.0, 1.0]))


INVALID = [
    ("beta", 0.0),
    ("beta", -1.0),
    ("gamma", 0.0),
    ("gamma", 0.1),
    ("zeta", 1.0),
    ("zeta", 0.9),
    ("beta", math.nan),
]


@pytest.mark.parametrize("kind", [HardConcrete, GateConfig])
@pytest.mark.parametrize(("name", "value"), INVALID)
def test_parameter_out_of_range_is_refused(kind: type[FlatConfig], name: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**{name: value})
    assert [problem.key for problem in caught.value.problems] == [name] and f"got {value}" in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("beta_end", 0.0), ("gate_target", "keys")])
def test_gate_setting_out_of_range_is_refused(name: str, value: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        GateConfig(**{name: value})
    assert [problem.key for problem in caught.value.problems] == [name]


def test_gate_temperature_moves_geometrically_to_its_end() -> None:
    config = GateConfig(beta=0.8, gamma=-0.2, zeta=1.3, beta_end=0.2)
    betas = [config.distribution(anneal).beta for anneal in (0.0, 0.5, 1.0)]
    assert betas == pytest.approx([0.8, 0.4, 0.2])
    assert (config.distribution(0.5).gamma, config.distribution(0.5).zeta) == (-0.2, 1.3)
    assert GateConfig(beta=0.8).distribution(1.0).beta == 0.8
