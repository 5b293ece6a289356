"""Timing several variants side by side, and comparing them round by round."""

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
class Spread:
    """Median, 10th and 90th percentile of some values, interpolated linearly."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
        return cls(median=median, low=low, high=high)

    def as_dict(self) -> dict[str, float]:
        """The form that records hold."""
        return {"median": self.median, "low": self.low, "high": self.high}


def ratios(dense: Sequence[float], variant: Sequence[float]) -> Spread:
    """Spread of dense / variant, pair by pair: above 1 = the variant is faster.

    A slow moment of the machine hits both times of a round, so their ratio moves less than the times do.

    Args:
        dense: seconds of the dense model, one value per round.
        variant: seconds of the variant in the same rounds.
    """
    return Spread.of([first / second for first, second in zip(dense, variant, strict=True)])


def interleaved(
    calls: Mapping[str, Sequence[Call]],
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
    wait: Call = lambda: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Seconds of every variant in every round; a round is one call per batch, A B C on the first, A B C on the next.

    Args:
        calls: variant -> one call per batch, the same number for all.
        rounds: timed rounds.
        warmup: rounds before them, not timed.
        clock: seconds.
        wait: blocks until the device has finished.
        tell: is told after each round how many of all (warm-up included) are done.

    Returns:
        variant -> [rounds] seconds, summed over the batches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with _collector_paused():
        for number in range(warmup + rounds):
            gc.collect()
            spent = _round(calls, clock, wait)
            for name in calls:
                if number >= warmup:
                    seconds[name].append(spent[name])
            tell(number + 1, warmup + rounds)
    return seconds


def waiter(device: str) -> Call:
    """What blocks until a device has finished its work; a CPU call returns when it has."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def release(device: str) -> None:
    """Give memory back that nothing holds any more, but the allocator of the device keeps at hand."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _round(calls: Mapping[str, Sequence[Call]], clock: Callable[[], float], wait: Call) -> dict[str, float]:
    spent = dict.fromkeys(calls, 0.0)
    for turn in zip(*calls.values(), strict=True):
        for name, call in zip(calls, turn, strict=True):
            wait()
            start = clock()
            call()
            wait()
            spent[name] += clock() - start
    return spent


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No collection while a variant is being timed; those between rounds look at what the rounds left, no more."""
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()
