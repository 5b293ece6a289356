"""Time several variants side by side and compare them round by round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], None]


@dataclass(frozen=True)
class Quantiles:
    """Median, 10th (``low``) and 90th (``high``) percentile, interpolated linearly."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Compute the quantiles of at least one value."""
        low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
        return cls(median=median, low=low, high=high)

    def as_dict(self) -> dict[str, float]:
        """Return the form that result records have."""
        return {"median": self.median, "low": self.low, "high": self.high}


def speedup_quantiles(dense: Sequence[float], variant: Sequence[float]) -> Quantiles:
    """Compute the quantiles of dense / variant, pair by pair; above 1 = the variant is faster.

    A slow moment of the machine affects both times of a round, so their ratio varies less than the times do.

    Args:
        dense: seconds of the dense model, one value per round.
        variant: seconds of the variant in the same rounds.
    """
    return Quantiles.of([first / second for first, second in zip(dense, variant, strict=True)])


def time_interleaved(
    calls: Mapping[str, Sequence[Call]],
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Call = lambda: None,
    on_round_end: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Time every variant in every round; a round runs A B C on the first batch, then A B C on the next, and so on.

    Args:
        calls: variant -> one call per batch, the same number for all.
        rounds: timed rounds.
        warmup: rounds before them, not timed.
        clock: returns seconds.
        synchronize: blocks until the device has finished.
        on_round_end: called after each round with the number of rounds done and in total, warm-up included.

    Returns:
        variant -> [rounds] seconds, summed over the batches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with _garbage_collection_paused():
        for number in range(warmup + rounds):
            gc.collect()
            round_seconds = _run_round(calls, clock, synchronize)
            for name in calls:
                if number >= warmup:
                    seconds[name].append(round_seconds[name])
            on_round_end(number + 1, warmup + rounds)
    return seconds


def synchronizer(device: str) -> Call:
    """Return a function that blocks until a device has finished its work; on a CPU it does nothing."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def release_memory(device: str) -> None:
    """Collect garbage and return the cached memory of the device's allocator."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _run_round(calls: Mapping[str, Sequence[Call]], clock: Callable[[], float], synchronize: Call) -> dict[str, float]:
    seconds = dict.fromkeys(calls, 0.0)
    for calls_on_batch in zip(*calls.values(), strict=True):
        for name, call in zip(calls, calls_on_batch, strict=True):
            synchronize()
            start = clock()
            call()
            synchronize()
            seconds[name] += clock() - start
    return seconds


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Prevent automatic collections while a variant is timed; explicit ones see only what the rounds left behind."""
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()
