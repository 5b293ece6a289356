"""Who runs when, what the clock counts, and the ratios made of it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from retention.bench.timing import Spread, interleaved, ratios


class Clock:
    """Time that only passes where somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def job(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.log.append(name)
            self.now += seconds

        return work


def test_ratios_are_taken_pair_by_pair() -> None:
    # the medians of the times themselves, 4 and 2, would give 2.0
    spread = ratios([2.0, 4.0, 9.0], [1.0, 4.0, 2.0])
    assert spread.median == 2.0
    assert spread.low == pytest.approx(1.2)  # 10 % of the way through 1, 2, 4.5
    assert spread.high == pytest.approx(4.0)


def test_the_slow_moments_of_a_machine_cancel() -> None:
    dense, variant = [2.0, 20.0, 2.0, 6.0], [1.0, 10.0, 1.0, 3.0]
    assert ratios(dense, variant) == Spread(2.0, 2.0, 2.0)


def test_times_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_spread_of_one_value_is_that_value() -> None:
    assert Spread.of([3.0]).as_dict() == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_variants_take_turns_on_every_batch() -> None:
    clock = Clock()
    calls = {name: [clock.job(f"{name}{batch}", 1.0) for batch in (0, 1)] for name in "ABC"}
    interleaved(calls, rounds=2, warmup=1, clock=clock)
    assert clock.log == ["A0", "B0", "C0", "A1", "B1", "C1"] * 3


def test_seconds_add_up_over_the_batches_of_a_round() -> None:
    clock = Clock()
    calls = {"A": [clock.job("A", 1.0), clock.job("A", 2.0)], "B": [clock.job("B", 0.5), clock.job("B", 0.25)]}
    seconds = interleaved(calls, rounds=3, warmup=0, clock=clock)
    assert seconds == {"A": [3.0] * 3, "B": [0.75] * 3}


def test_warm_up_rounds_do_not_count() -> None:
    clock = Clock()
    durations = iter([100.0, 100.0, 1.0, 2.0])

    def slow_at_first() -> None:
        clock.now += next(durations)

    assert interleaved({"A": [slow_at_first]}, rounds=2, warmup=2, clock=clock) == {"A": [1.0, 2.0]}


def test_work_that_ends_while_waiting_counts_for_the_one_who_started_it() -> None:
    clock, pending = Clock(), [0.0]

    def start(seconds: float) -> Callable[[], None]:
        def launch() -> None:
            pending[0] = seconds

        return launch

    def wait() -> None:
        clock.now += pending[0]
        pending[0] = 0.0

    seconds = interleaved({"A": [start(3.0)], "B": [start(1.0)]}, rounds=2, warmup=0, clock=clock, wait=wait)
    assert seconds == {"A": [3.0, 3.0], "B": [1.0, 1.0]}


def test_progress_counts_warm_up_rounds() -> None:
    told: list[tuple[int, int]] = []
    interleaved({"A": [lambda: None]}, rounds=2, warmup=1, tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_garbage_collector_rests_while_timing_only() -> None:
    seen: list[bool] = []
    interleaved({"A": [lambda: seen.append(gc.isenabled())]}, rounds=1, warmup=0)
    assert (seen, gc.isenabled()) == ([False], True)


def test_the_garbage_collector_comes_back_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        interleaved({"A": [fail]}, rounds=1, warmup=0)
    assert gc.isenabled()
