"""Measure the two limits of an encoder on this machine: the rate of its matrix products, and memory traffic.

What a speed-up falls short of its FLOP-ideal by is mostly the first column: the fewer tokens are left in a batch, the
slower the same arithmetic runs, in the dense model too.

    python scripts/limits.py --shape minilm --tokens 32 128 512 2048 8192
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from retention.bench.limits import Limit, measure_limits
from retention.bench.settings import DTYPES, SHAPES
from retention.models.backbone import Scratch
from retention.records import Limits, append_record, build_record

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, append a record; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--shape", default="minilm", choices=sorted(SHAPES))
    words.add_argument("--tokens", nargs="+", type=int, default=[16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192])
    words.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words.add_argument("--dtype", default="float32", choices=sorted(DTYPES))
    words.add_argument("--record", type=Path, default=ROOT / "results" / "speed" / "limits.jsonl")
    typed = list(sys.argv[1:] if argv is None else argv)
    chosen = words.parse_args(typed)
    if min(chosen.tokens) < 1:
        words.error(f"--tokens: must be at least 1, got {min(chosen.tokens)}")
    started = time.perf_counter()
    shape = Scratch(name=chosen.shape, **SHAPES[chosen.shape]).shape()
    bandwidth, limits = measure_limits(
        shape, chosen.tokens, device=torch.device(chosen.device), dtype=DTYPES[chosen.dtype]
    )
    print(table(bandwidth, limits))
    result = Limits(
        backbone=f"{chosen.shape}-random",
        device=chosen.device,
        dtype=chosen.dtype,
        threads=torch.get_num_threads(),
        copy_gb_per_s=bandwidth,
        limits=[asdict(limit) | {"bound": limit.bound} for limit in limits],
    )
    config = {key: value for key, value in vars(chosen).items() if key != "record"}
    record = build_record(
        result, config=config, seed=0, wall_s=time.perf_counter() - started, argv=["scripts/limits.py", *typed]
    )
    append_record(chosen.record, record)
    print(f"record appended to {os.path.relpath(chosen.record)}", file=sys.stderr)
    return 0


def table(bandwidth: float, limits: Sequence[Limit]) -> str:
    """Aligned text."""
    lines = [f"copy: {bandwidth:.1f} GB/s", "tokens   products   memory could feed   nearer limit"]
    for limit in limits:
        rates = f"{limit.gflops:6.0f} GF/s   {limit.traffic_gflops:12.0f} GF/s"
        lines.append(f"{limit.tokens:6d}   {rates}   {limit.bound}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
