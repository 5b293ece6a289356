"""Measure two limits of an encoder on this machine: the rate of its matrix products, and memory traffic.

Together they form a roofline model (Williams et al., 2009). Where a measured speedup stays below the ideal one, the
matrix products are the usual reason: the fewer tokens a batch has, the slower the same arithmetic runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from retention.bench.settings import DEVICES, DTYPES, NO_CUDA, SHAPES, is_usable
from retention.core.flops import EncoderShape
from retention.models.backbone import ScratchBackbone
from retention.records import Limits, append_record, build_record

_COPY_BYTES = 256 * 2**20  # far larger than any cache
_MIN_SECONDS = 0.15  # measuring time per number


@dataclass(frozen=True)
class Limit:
    """Upper bounds of the matrix products of one layer, for a number of tokens in the batch.

    Attributes:
        tokens: rows of the matrices.
        gflops: measured rate of all matrix products of a layer, in GFLOP/s.
        intensity: FLOPs per byte that they have to move: weights once, states in and out.
        traffic_gflops: rate at which memory could feed them at that intensity, in GFLOP/s.
    """

    tokens: int
    gflops: float
    intensity: float
    traffic_gflops: float

    @property
    def bound(self) -> str:
        """Name of the lower limit."""
        return "arithmetic" if self.gflops <= self.traffic_gflops else "memory traffic"


def measure_limits(
    shape: EncoderShape, tokens: Sequence[int], *, device: torch.device, dtype: torch.dtype
) -> tuple[float, list[Limit]]:
    """Measure the copy bandwidth in GB/s, and the limits for every number of tokens."""
    bandwidth = _copy_bandwidth(device)
    return bandwidth, [_measure_limit(shape, count, bandwidth, device, dtype) for count in tokens]


def format_table(bandwidth: float, limits: Sequence[Limit]) -> str:
    """Format bandwidth and limits as aligned text."""
    lines = [f"copy: {bandwidth:.1f} GB/s", "tokens   products   memory could feed   lower limit"]
    for limit in limits:
        rates = f"{limit.gflops:6.0f} GF/s   {limit.traffic_gflops:12.0f} GF/s"
        lines.append(f"{limit.tokens:6d}   {rates}   {limit.bound}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the limits, print a table, append a record and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="retention bench-limits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    token_counts = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
    parser.add_argument("--shape", default="minilm", choices=sorted(SHAPES), help="of the encoder (default: minilm)")
    parser.add_argument("--tokens", nargs="+", type=int, default=token_counts, help="tokens in a batch")
    parser.add_argument("--device", choices=DEVICES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=sorted(DTYPES))
    parser.add_argument(
        "--record", type=Path, default=Path("results/speed/limits.jsonl"), help="JSON Lines file to append to"
    )
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(arguments)
    if min(options.tokens) < 1:
        parser.error(f"--tokens: must be at least 1, got {min(options.tokens)}")
    if not is_usable(options.device):
        parser.error(f"--device: {NO_CUDA}")
    started = time.perf_counter()
    shape = ScratchBackbone(name=options.shape, **SHAPES[options.shape]).shape()
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    bandwidth, limits = measure_limits(shape, options.tokens, device=device, dtype=dtype)
    print(format_table(bandwidth, limits))
    result = Limits(
        backbone=f"{options.shape}-random",
        device=options.device,
        dtype=options.dtype,
        threads=torch.get_num_threads(),
        copy_gb_per_s=bandwidth,
        limits=[asdict(limit) | {"bound": limit.bound} for limit in limits],
    )
    config = {key: value for key, value in vars(options).items() if key != "record"}
    wall_s = time.perf_counter() - started
    record = build_record(result, config=config, seed=0, wall_s=wall_s, argv=["retention", "bench-limits", *arguments])
    append_record(options.record, record)
    print(f"record appended to {os.path.relpath(options.record)}", file=sys.stderr)
    return 0


def _measure_limit(
    shape: EncoderShape, tokens: int, bandwidth: float, device: torch.device, dtype: torch.dtype
) -> Limit:
    width, inner, heads = shape.hidden_size, shape.intermediate_size, shape.attention_size or shape.hidden_size
    sizes = [(width, heads)] * 3 + [(heads, width)] + [(width, inner)] * (shape.ffn_matrices - 1) + [(inner, width)]
    operands = [
        (torch.randn(tokens, into, device=device, dtype=dtype), torch.randn(out, into, device=device, dtype=dtype))
        for into, out in sizes
    ]

    def run_products() -> None:
        for states, weight in operands:
            F.linear(states, weight)

    flops = sum(2.0 * tokens * into * out for into, out in sizes)
    moved = sum((tokens * (into + out) + into * out) * torch.finfo(dtype).bits / 8 for into, out in sizes)
    intensity = flops / moved
    return Limit(tokens, flops / _median_seconds(run_products) / 1e9, intensity, intensity * bandwidth)


def _copy_bandwidth(device: torch.device) -> float:
    source = torch.ones(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * _COPY_BYTES / _median_seconds(lambda: target.copy_(source)) / 1e9


def _median_seconds(call: Callable[[], object]) -> float:
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=_MIN_SECONDS).median)


if __name__ == "__main__":
    sys.exit(main())
