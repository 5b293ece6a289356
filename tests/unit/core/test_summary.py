"""Test the running summary against a plain loop over the recurrence."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retention.core.summary import previous_summary

lengths = st.one_of(st.sampled_from([1, 2, 3, 31, 32, 33]), st.integers(1, 70))
decays = st.floats(0.0, 1.0)
seeds = st.integers(0, 2**31 - 1)


def naive(states: Tensor, decay: float, weights: Tensor) -> Tensor:
    """Compute m_t = a_t m_{t-1} + (1 - a_t) h_t one token at a time; return the summary before each token."""
    memory, rows = torch.zeros_like(states[:, 0]), []
    for position in range(states.shape[1]):
        rows.append(memory)
        keep = (1.0 - weights[:, position] * (1.0 - decay)).unsqueeze(-1)
        memory = keep * memory + (1.0 - keep) * states[:, position]
    return torch.stack(rows, 1)


@given(length=lengths, decay=decays, seed=seeds)
def test_summary_equals_the_recurrence(length: int, decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(2, length, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, length, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(previous_summary(states, decay, weights), naive(states, decay, weights))
    plain = previous_summary(states, decay)
    torch.testing.assert_close(plain, naive(states, decay, torch.ones_like(weights)))


@given(length=lengths, decay=decays, seed=seeds)
def test_weight_zero_equals_removal(length: int, decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, length, 2, generator=generator, dtype=torch.float64)
    kept = torch.rand(length, generator=generator) < 0.6
    weighted = previous_summary(states, decay, kept.double().unsqueeze(0))
    removed = previous_summary(states[:, kept], decay) if kept.any() else states[:, kept]
    torch.testing.assert_close(weighted[:, kept], removed)


def test_first_summary_is_zero_and_the_last_token_has_no_effect() -> None:
    states = torch.randn(2, 5, 3)
    summary = previous_summary(states, 0.5)
    assert (summary[:, 0] == 0).all()
    states[:, -1] += 100
    assert torch.equal(summary, previous_summary(states, 0.5))


def test_gradients_reach_states_and_weights() -> None:
    states = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: previous_summary(h, 0.7, w), (states, weights))
