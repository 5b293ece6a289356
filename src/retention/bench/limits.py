"""The two limits of an encoder on this machine: arithmetic and memory traffic (roofline, Williams et al. 2009)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch.nn import functional as F

from retention.core.flops import EncoderShape

_REPEATS = 7
_COPIED = 256 * 2**20  # bytes; far beyond any cache
_LEAST_S = 0.02


@dataclass(frozen=True)
class Limit:
    """What the matrix products of one layer can reach with this many tokens in the batch.

    Attributes:
        tokens: rows of the matrices.
        gflops: rate of the products alone, all of a layer's together, in GFLOP/s.
        intensity: FLOPs per byte that they have to move: weights once, states in and out.
        traffic_gflops: rate at which memory could feed them at that intensity, in GFLOP/s.
    """

    tokens: int
    gflops: float
    intensity: float
    traffic_gflops: float

    @property
    def bound(self) -> str:
        """Which limit is the nearer one."""
        return "arithmetic" if self.gflops <= self.traffic_gflops else "memory traffic"


def measure_limits(
    shape: EncoderShape, tokens: Sequence[int], *, device: torch.device, dtype: torch.dtype
) -> tuple[float, list[Limit]]:
    """Copy bandwidth in GB/s, and the limits for every number of tokens."""
    bandwidth = _bandwidth(device)
    return bandwidth, [_limit(shape, count, bandwidth, device, dtype) for count in tokens]


def _limit(shape: EncoderShape, tokens: int, bandwidth: float, device: torch.device, dtype: torch.dtype) -> Limit:
    width, inner, heads = shape.hidden_size, shape.intermediate_size, shape.attention_size or shape.hidden_size
    sizes = [(width, heads)] * 3 + [(heads, width)] + [(width, inner)] * (shape.ffn_matrices - 1) + [(inner, width)]
    pairs = [
        (torch.randn(tokens, into, device=device, dtype=dtype), torch.randn(out, into, device=device, dtype=dtype))
        for into, out in sizes
    ]

    def products() -> None:
        for states, weight in pairs:
            F.linear(states, weight)

    flops = sum(2.0 * tokens * into * out for into, out in sizes)
    moved = sum((tokens * (into + out) + into * out) * torch.finfo(dtype).bits / 8 for into, out in sizes)
    intensity = flops / moved
    return Limit(tokens, flops / _seconds(products, device) / 1e9, intensity, intensity * bandwidth)


def _bandwidth(device: torch.device) -> float:
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * _COPIED / _seconds(lambda: target.copy_(source), device) / 1e9


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median time of a call, each taken over enough repetitions to be measured."""
    call()
    count, spent = 1, 0.0
    while spent < _LEAST_S:
        count *= 2
        spent = _timed(call, count, device)
    return median(_timed(call, count, device) for _ in range(_REPEATS)) / count


def _timed(call: Callable[[], object], count: int, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(count):
        call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
