"""Check the order of the variants, the measured seconds, and the speedups computed from them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from retention.bench.timing import Quantiles, speedup_quantiles, time_interleaved


class Clock:
    """Clock that only advances while a job runs."""

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


def test_speedup_is_computed_pair_by_pair() -> None:
    # the medians of the times themselves, 4 and 2, would give 2.0
    quantiles = speedup_quantiles([2.0, 4.0, 9.0], [1.0, 4.0, 2.0])
    assert quantiles.median == 2.0
    assert quantiles.low == pytest.approx(1.2)  # 10 % of the way through 1, 2, 4.5
    assert quantiles.high == pytest.approx(4.0)


def test_slow_rounds_cancel() -> None:
    dense, variant = [2.0, 20.0, 2.0, 6.0], [1.0, 10.0, 1.0, 3.0]
    assert speedup_quantiles(dense, variant) == Quantiles(2.0, 2.0, 2.0)


def test_unequal_numbers_of_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        speedup_quantiles([1.0, 2.0], [1.0])


def test_quantiles_of_one_value() -> None:
    assert Quantiles.of([3.0]).as_dict() == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_variants_alternate_on_every_batch() -> None:
    clock = Clock()
    calls = {name: [clock.job(f"{name}{batch}", 1.0) for batch in (0, 1)] for name in "ABC"}
    time_interleaved(calls, rounds=2, warmup=1, clock=clock)
    assert clock.log == ["A0", "B0", "C0", "A1", "B1", "C1"] * 3


def test_seconds_are_summed_over_the_batches_of_a_round() -> None:
    clock = Clock()
    calls = {"A": [clock.job("A", 1.0), clock.job("A", 2.0)], "B": [clock.job("B", 0.5), clock.job("B", 0.25)]}
    seconds = time_interleaved(calls, rounds=3, warmup=0, clock=clock)
    assert seconds == {"A": [3.0] * 3, "B": [0.75] * 3}


def test_warmup_rounds_are_not_timed() -> None:
    clock = Clock()
    durations = iter([100.0, 100.0, 1.0, 2.0])

    def slow_at_first() -> None:
        clock.now += next(durations)

    assert time_interleaved({"A": [slow_at_first]}, rounds=2, warmup=2, clock=clock) == {"A": [1.0, 2.0]}


def test_asynchronous_work_counts_for_its_variant() -> None:
    clock, pending = Clock(), [0.0]

    def start(seconds: float) -> Callable[[], None]:
        def launch() -> None:
            pending[0] = seconds

        return launch

    def wait() -> None:
        clock.now += pending[0]
        pending[0] = 0.0

    seconds = time_interleaved(
        {"A": [start(3.0)], "B": [start(1.0)]}, rounds=2, warmup=0, clock=clock, synchronize=wait
    )
    assert seconds == {"A": [3.0, 3.0], "B": [1.0, 1.0]}


def test_progress_includes_warmup_rounds() -> None:
    progress: list[tuple[int, int]] = []
    time_interleaved(
        {"A": [lambda: None]}, rounds=2, warmup=1, on_round_end=lambda done, total: progress.append((done, total))
    )
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_garbage_collector_is_paused_while_timing() -> None:
    seen: list[bool] = []
    time_interleaved({"A": [lambda: seen.append(gc.isenabled())]}, rounds=1, warmup=0)
    assert (seen, gc.isenabled()) == ([False], True)


def test_garbage_collector_is_restored_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        time_interleaved({"A": [fail]}, rounds=1, warmup=0)
    assert gc.isenabled()
