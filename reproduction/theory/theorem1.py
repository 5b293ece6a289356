"""Check Theorem 1 (appendix H): Rademacher complexity under a random mask of M of T positions."""

from __future__ import annotations

import torch
from torch import Tensor

from reproduction.theory.evidence import Evidence, Measurement, TheoryClaim, TheoryVerdict
from reproduction.theory.instances import generator

TEXTS, TOKENS, WIDTH = 300, 20, 32
KEPT = (20, 10, 6, 2)  # M; ratios 1, 0.5, 0.3, 0.1
COMMON = {"independent tokens": 0.0, "common part 0.3": 0.3, "identical tokens": 1.0}
POOLINGS = ("sum", "mean")
DRAWS = 2000
TOLERANCE = 0.05
NETWORK, NETWORK_STEPS, NETWORK_DRAWS, HIDDEN = "two-layer network, mean pooling", 200, 50, 4


def run(draws: int = DRAWS, network_draws: int = NETWORK_DRAWS) -> Evidence:
    """Estimate the complexity of the unit-ball linear class and of a small network for every number of kept tokens."""
    measurements = []
    for number, (name, common) in enumerate(COMMON.items()):
        states = token_states(common, seed=20 + number)
        for pooling in POOLINGS:
            measurements += ratios(f"{name}, {pooling} pooling", states, pooling, draws)
    states, dense = token_states(0.3, seed=21), (1.0, 0.0)
    for kept in KEPT:
        fitted = network_complexity(states, kept, network_draws, seed=31)
        dense = fitted if kept == TOKENS else dense
        measurements.append(_ratio(NETWORK, kept, fitted, dense))
    return decide(measurements)


def decide(measurements: list[Measurement]) -> Evidence:
    """Decide by the linear instance whose ratio at M / T = 0.1 is farthest from 0.1."""
    smallest = KEPT[-1] / TOKENS
    linear = [each for each in measurements if each.instance != NETWORK and each.at["M/T"] == smallest]
    decisive = max(linear, key=lambda each: abs(each.value - smallest))
    holds = [abs(each.value / smallest - 1.0) <= TOLERANCE for each in linear]
    verdict = TheoryVerdict.HOLDS if all(holds) else TheoryVerdict.ANOTHER_FORM if any(holds) else TheoryVerdict.FAILS
    return Evidence(verdict, decisive, tuple(measurements))


def ratios(instance: str, states: Tensor, pooling: str, draws: int) -> list[Measurement]:
    """Measure the complexity of linear functions at every M, relative to all tokens.

    Args:
        instance: name of the instance.
        states: [texts, TOKENS, d].
        pooling: ``sum`` or ``mean``.
        draws: of signs and masks.
    """
    dense = linear_complexity(states, TOKENS, pooling, draws, seed=30)
    values = {kept: linear_complexity(states, kept, pooling, draws, seed=30) for kept in KEPT}
    return [_ratio(instance, kept, value, dense) for kept, value in values.items()]


def token_states(common: float, seed: int) -> Tensor:
    """Draw states of unit expected square norm whose tokens share a part with their text, [texts, T, d].

    Args:
        common: share of the square norm that all tokens of a text have in common, in [0, 1].
        seed: of the states.
    """
    source = generator(seed)
    shared = torch.randn(TEXTS, 1, WIDTH, generator=source, dtype=torch.float64)
    separate = torch.randn(TEXTS, TOKENS, WIDTH, generator=source, dtype=torch.float64)
    states: Tensor = (common**0.5 * shared + (1.0 - common) ** 0.5 * separate) / WIDTH**0.5
    return states


def pool_random(states: Tensor, kept: int, pooling: str, source: torch.Generator) -> Tensor:
    """Pool a random set of ``kept`` tokens of each text, by their sum or their mean, [texts, d]."""
    order = torch.rand(states.shape[:2], generator=source, dtype=torch.float64).argsort(-1)
    mask = (order < kept).to(states.dtype)
    total = (mask[..., None] * states).sum(1)
    return total / kept if pooling == "mean" else total


def linear_complexity(states: Tensor, kept: int, pooling: str, draws: int, seed: int) -> tuple[float, float]:
    """Estimate the Rademacher complexity of {x -> w'x, |w| <= 1} on masked and pooled states.

    The supremum over w is exact, so R = E |sum_i sigma_i x_i| / n; the expectation is over signs and masks.

    Returns:
        The estimate and its standard error.
    """
    source, values = generator(seed), []
    for _ in range(draws // 50):  # 50 draws of the signs share a draw of the masks
        pooled = pool_random(states, kept, pooling, source)
        signs = _signs(50, len(states), source)
        values.append((signs @ pooled).norm(dim=-1).mean() / len(states))
    stacked = torch.stack(values)
    return float(stacked.mean()), float(stacked.std()) / len(values) ** 0.5


def network_complexity(states: Tensor, kept: int, draws: int, seed: int) -> tuple[float, float]:
    """Estimate the correlation with random labels that a network of two layers and output tanh reaches by training.

    A lower estimate of the complexity of the class, since training does not find the supremum. Networks for all draws
    of labels are trained together, with Adam.

    Returns:
        The estimate and its standard error over draws.
    """
    source = generator(seed)
    pooled = pool_random(states, kept, "mean", source)
    labels = _signs(draws, len(pooled), source)
    first = torch.randn(draws, pooled.shape[1], HIDDEN, generator=source, dtype=torch.float64)
    second = torch.randn(draws, HIDDEN, 1, generator=source, dtype=torch.float64) / HIDDEN**0.5
    optimizer = torch.optim.Adam([first.requires_grad_(), second.requires_grad_()], lr=1e-2)
    for _ in range(NETWORK_STEPS):
        correlations = _correlation(pooled, labels, first, second)
        optimizer.zero_grad()
        (-correlations.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    reached = _correlation(pooled, labels, first, second).detach()
    return float(reached.mean()), float(reached.std()) / draws**0.5


def _correlation(pooled: Tensor, labels: Tensor, first: Tensor, second: Tensor) -> Tensor:
    outputs = torch.tanh(torch.relu(pooled @ first) @ second).squeeze(-1)
    return (labels * outputs).mean(-1)


def _signs(draws: int, number: int, source: torch.Generator) -> Tensor:
    return torch.randint(2, (draws, number), generator=source).double() * 2.0 - 1.0


def _ratio(instance: str, kept: int, value: tuple[float, float], dense: tuple[float, float]) -> Measurement:
    """Divide by the complexity of all tokens; the error combines those of both, except for the dense value itself."""
    ratio = value[0] / dense[0]
    error = 0.0 if kept == TOKENS else ratio * ((value[1] / value[0]) ** 2 + (dense[1] / dense[0]) ** 2) ** 0.5
    return Measurement(instance, "complexity ratio", ratio, error, {"M/T": kept / TOKENS})


def describe(evidence: Evidence) -> str:
    """State the ratios as a table."""
    lines = ["| class and states | M/T = 0.5 | 0.3 | 0.1 |", "| --- | ---: | ---: | ---: |"]
    for instance in evidence.instances("complexity ratio"):
        ratios = [evidence.find(instance, "complexity ratio", **{"M/T": kept / TOKENS}) for kept in KEPT[1:]]
        cells = [f"{each.value:.3f} +- {each.mc_error or 0:.3f}" for each in ratios]
        lines.append(f"| {instance} | {' | '.join(cells)} |")
    return "\n".join(lines)


CLAIM = TheoryClaim(
    name="theorem1",
    title="Theorem 1: Rademacher complexity",
    source="appendix H",
    statement="Under a random mask that keeps M of T positions the Rademacher complexity shrinks by the factor M / T.",
    method=(
        f"{TEXTS} texts of {TOKENS} tokens, each state with a part that is common to its text; a random set of M "
        f"tokens is kept and pooled. For the linear functions with weights in the unit ball the supremum is exact "
        f"and only signs and masks are drawn ({DRAWS:,} times). For a network of two layers: the correlation with "
        f"random labels after {NETWORK_STEPS} steps of training. The cells are complexities relative to all tokens. "
        f"Refuted by a ratio off M / T by more than 5 %."
    ),
    run=run,
    describe=describe,
    valid_form=(
        "The factor is M / T only for a sum over identical tokens. It is sqrt(M / T) for a sum over independent "
        "tokens, and with mean pooling, as embeddings and several heads here use it, the complexity does not shrink: "
        "it is constant for identical tokens and grows by up to sqrt(T / M). A smaller gap between training and "
        "test does not follow."
    ),
)
