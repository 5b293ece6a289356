"""Test budgets: the mean of every schedule, counts in whole tokens, and errors."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retention.core.budget import Budget
from retention.errors import ConfigError

ratios = st.integers(1, 100).map(lambda percent: percent / 100)
gates = st.integers(1, 12)
lengths = st.lists(st.integers(1, 5000), min_size=1, max_size=5)
anneals = st.floats(0.0, 1.0)


@given(rho=ratios, num_gates=gates, slope=st.floats(0.0, 1.0))
def test_named_schedules_have_mean_rho(rho: float, num_gates: int, slope: float) -> None:
    for schedule in ("flat", "linear", "learned"):
        values = Budget(rho=rho, schedule=schedule, num_gates=num_gates, slope=slope).keep_ratios().detach()
        assert values.mean().item() == pytest.approx(rho, abs=1e-5), schedule
        assert (values.diff() <= 1e-6).all() and values.max() <= 1.0, schedule


@given(rho=ratios, num_gates=gates, scale=st.sampled_from([0.5, 3.0, 30.0]), seed=st.integers(0, 10**6))
def test_learned_schedule_has_mean_rho_for_any_allocation(rho: float, num_gates: int, scale: float, seed: int) -> None:
    budget = Budget(rho=rho, schedule="learned", num_gates=num_gates)
    assert budget.allocation is not None
    noise = torch.randn(num_gates, generator=torch.Generator().manual_seed(seed))
    budget.allocation.data.add_(scale * noise)
    values = budget.keep_ratios().detach()
    assert values.mean().item() == pytest.approx(rho, abs=1e-5)
    assert values.min() > 0 and values.max() <= 1.0 and (values.diff() <= 1e-6).all()


def test_linear_schedule_has_the_given_slope() -> None:
    values = Budget(rho=0.4, schedule="linear", num_gates=5, slope=0.5).keep_ratios()
    torch.testing.assert_close(values, torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2]))


def test_linear_schedule_clips_at_one_and_restores_the_mean() -> None:
    values = Budget(rho=0.8, schedule="linear", num_gates=5, slope=1.0).keep_ratios()
    assert values[0] == 1.0 and values[-1] < values[1]
    assert values.mean().item() == pytest.approx(0.8, abs=1e-6)


def test_linear_schedule_with_one_gate_is_rho() -> None:
    assert Budget(rho=0.3, schedule="linear", num_gates=1).keep_ratios().tolist() == pytest.approx([0.3])


@given(percent=st.integers(1, 100), num_gates=gates, real=lengths)
def test_flat_counts_are_the_exact_floor(percent: int, num_gates: int, real: list[int]) -> None:
    counts = Budget(rho=percent / 100, schedule="flat", num_gates=num_gates).counts(torch.tensor(real))
    exact = [max(1, math.floor(Fraction(percent, 100) * length)) for length in real]
    assert counts.tolist() == [exact] * num_gates


@given(percents=st.lists(st.integers(1, 100), min_size=1, max_size=6), real=lengths)
def test_listed_counts_are_the_exact_floor(percents: list[int], real: list[int]) -> None:
    percents = sorted(percents, reverse=True)
    listed = Budget(rho=0.5, schedule=[p / 100 for p in percents], num_gates=len(percents))
    exact = [[max(1, math.floor(Fraction(p, 100) * length)) for length in real] for p in percents]
    assert listed.counts(torch.tensor(real)).tolist() == exact


@given(percent=st.integers(1, 100), num_gates=gates, real=lengths)
def test_geometric_counts_are_nested_floors(percent: int, num_gates: int, real: list[int]) -> None:
    counts = Budget(rho=percent / 100, schedule="geometric", num_gates=num_gates).counts(torch.tensor(real))
    expected, current = [], real
    for _ in range(num_gates):
        current = [max(1, math.floor(Fraction(percent, 100) * length)) for length in current]
        expected.append(current)
    assert counts.tolist() == expected


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned", (0.9, 0.9, 0.4, 0.1)])
@given(rho=ratios, real=lengths, anneal=anneals)
def test_counts_never_increase_and_do_not_depend_on_the_batch(
    schedule: str | tuple[float, ...], rho: float, real: list[int], anneal: float
) -> None:
    budget = Budget(rho=rho, schedule=schedule, num_gates=4)
    tokens = torch.tensor(real)
    counts = budget.counts(tokens, anneal)
    assert counts.shape == (4, len(real)) and counts.dtype == torch.long
    assert (counts >= 1).all() and (counts <= tokens).all() and (counts.diff(dim=0) <= 0).all()
    alone = torch.cat([budget.counts(tokens[row : row + 1], anneal) for row in range(len(real))], 1)
    assert torch.equal(counts, alone)


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned", (0.9, 0.9, 0.4, 0.1)])
@given(real=lengths, anneal=anneals)
def test_targets_are_the_counts_before_rounding(
    schedule: str | tuple[float, ...], real: list[int], anneal: float
) -> None:
    budget = Budget(rho=0.5, schedule=schedule, num_gates=4)
    tokens = torch.tensor(real)
    rounding = budget.targets(tokens, anneal).detach() - budget.counts(tokens, anneal)
    # nested floors lose up to a token at each gate
    allowed = 4.0 if schedule == "geometric" else 1.0
    assert (rounding > -1e-2).all() and (rounding < allowed + 1e-2).all()


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned"])
def test_annealing_starts_at_keep_all(schedule: str) -> None:
    budget = Budget(rho=0.3, schedule=schedule, num_gates=3)
    real = torch.tensor([17, 1000])
    assert torch.equal(budget.counts(real, 0.0), real.expand(3, -1))
    torch.testing.assert_close(budget.targets(real, 0.0).detach(), real.float().expand(3, -1))


def test_learned_schedule_starts_linear_and_is_differentiable() -> None:
    budget = Budget(rho=0.4, schedule="learned", num_gates=5, slope=0.5)
    torch.testing.assert_close(
        budget.keep_ratios().detach(), torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2]), atol=5e-3, rtol=0
    )
    budget.targets(torch.tensor([100, 50]))[0].sum().backward()
    assert budget.allocation is not None and budget.allocation.grad is not None
    # a larger keep ratio of the first gate reduces all others
    assert budget.allocation.grad[0] > 0 and (budget.allocation.grad[1:] < 0).all()


def test_only_the_learned_schedule_has_parameters() -> None:
    assert not list(Budget(rho=0.4, schedule="linear", num_gates=3).parameters())
    assert [p.shape for p in Budget(rho=0.4, schedule="learned", num_gates=3).parameters()] == [(3,)]


def test_gate_that_removes_nothing_is_inactive() -> None:
    assert Budget(rho=0.5, schedule="flat", num_gates=3).active() == (True, False, False)
    assert Budget(rho=1.0, schedule="geometric", num_gates=2).active() == (False, False)
    assert Budget(rho=0.5, schedule=[1.0, 0.5, 0.5, 0.2], num_gates=4).active() == (False, True, False, True)
    assert Budget(rho=0.5, schedule="learned", num_gates=2).active() == (True, True)


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned"])
def test_budget_without_gates(schedule: str) -> None:
    budget = Budget(rho=0.5, schedule=schedule, num_gates=0)
    assert budget.counts(torch.tensor([5, 6])).shape == (0, 2)
    assert budget.active() == ()


@pytest.mark.parametrize(("key", "value"), [("rho", 1.7), ("rho", 0.0), ("slope", -1), ("schedule", "steep")])
def test_invalid_setting_is_refused(key: str, value: float | str) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget(**{"rho": 0.5, "schedule": "flat", "num_gates": 3, key: value})
    assert [problem.key for problem in caught.value.problems] == [key] and f"got {value!r}" in str(caught.value)


def test_unknown_schedule_error_lists_the_schedules() -> None:
    with pytest.raises(ConfigError, match="flat, linear, geometric, learned"):
        Budget(rho=0.5, schedule="steep", num_gates=3)


@pytest.mark.parametrize("listed", [[], [0.5, 0.6], [1.2, 0.5], [0.5, 0.0]])
def test_invalid_list_is_refused(listed: list[float]) -> None:
    with pytest.raises(ConfigError, match="schedule: a list must hold"):
        Budget(rho=0.5, schedule=listed, num_gates=len(listed))


def test_list_needs_one_keep_ratio_per_gate() -> None:
    with pytest.raises(ConfigError, match="2 keep ratios for 3 gated layers"):
        Budget(rho=0.5, schedule=[0.6, 0.4], num_gates=3)


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned"])
@given(low=ratios, high=ratios, slope=st.floats(0.0, 1.0))
def test_at_uses_another_budget_inside_the_block(schedule: str, low: float, high: float, slope: float) -> None:
    budget = Budget(rho=high, schedule=schedule, num_gates=5, slope=slope)
    real, before = torch.tensor([7, 100]), budget.keep_ratios().detach()
    with budget.at(low):
        expected = Budget(rho=low, schedule=schedule, num_gates=5, slope=slope)
        if schedule != "learned":  # whose division stays the learned one
            assert torch.equal(budget.counts(real), expected.counts(real))
            assert torch.equal(budget.targets(real, 0.4), expected.targets(real, 0.4))
            assert budget.active() == expected.active()
        else:
            assert budget.keep_ratios().mean().item() == pytest.approx(low, abs=1e-5)
    assert torch.equal(budget.keep_ratios().detach(), before)


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned"])
@given(one=ratios, other=ratios, slope=st.floats(0.0, 1.0), num_gates=gates)
def test_active_gate_is_active_at_every_lower_budget(
    schedule: str, one: float, other: float, slope: float, num_gates: int
) -> None:
    low, high = (
        Budget(rho=rho, schedule=schedule, num_gates=num_gates, slope=slope).active()
        for rho in (min(one, other), max(one, other))
    )
    assert all(at_low or not at_high for at_low, at_high in zip(low, high, strict=True))


@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned"])
def test_rho_one_makes_every_gate_inactive(schedule: str) -> None:
    budget = Budget(rho=0.3, schedule=schedule, num_gates=4)
    with budget.at(1.0):
        assert budget.active() == (False,) * 4
        assert torch.equal(budget.counts(torch.tensor([17])), torch.full((4, 1), 17))


@given(rho=ratios, num_gates=gates, floor=st.integers(1, 64), real=lengths)
@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric"])
def test_min_tokens_is_a_floor_and_changes_nothing_above_it(
    schedule: str, rho: float, num_gates: int, floor: int, real: list[int]
) -> None:
    lengths = torch.tensor(real)
    plain = Budget(rho=rho, schedule=schedule, num_gates=num_gates)
    budget = Budget(rho=rho, schedule=schedule, num_gates=num_gates, min_tokens=floor)
    counts = budget.counts(lengths)
    assert (counts >= lengths.clamp_max(floor)).all() and (counts <= lengths).all()
    above = plain.counts(lengths) >= floor
    assert torch.equal(counts[above], plain.counts(lengths)[above])
    assert (budget.targets(lengths) >= lengths.clamp_max(floor)).all()


@pytest.mark.parametrize("value", [0, -3, 2.5, True, float("nan")])
def test_min_tokens_must_be_a_whole_number(value: float) -> None:
    with pytest.raises(ConfigError, match="min_tokens"):
        Budget(rho=0.5, schedule="flat", num_gates=2, min_tokens=value)  # type: ignore[arg-type]
