"""Compare the bank of the bounded cache with the min-heap that the paper sketches for decoding."""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reproduction.claims.decoding import HEAP_CLAIM
from retention.cache import CacheBudget
from retention.cache.eviction import bank_mask
from retention.records import Theory, append_record, build_record

LENGTH, LEVELS, SIZES = 7, 4, (1, 2, 3, 5)


def heap_masks(scores: Sequence[float], size: int) -> list[list[bool]]:
    """Return which tokens are attended to at each arrival: a min-heap of ``size - 1`` entries, and the new token.

    Of equal scores the earlier token stays.
    """
    heap: list[tuple[float, int]] = []
    masks = []
    for token, score in enumerate(scores):
        held = {-entry for _, entry in heap} | {token}
        masks.append([index in held for index in range(len(scores))])
        if len(heap) < size - 1:
            heapq.heappush(heap, (score, -token))
        elif size > 1:
            heapq.heappushpop(heap, (score, -token))
    return masks


def count_differences(scores: Tensor, size: int) -> int:
    """Count the moments at which the bank of the cache differs from the heap.

    Args:
        scores: [N, T], N sequences of T tokens.
        size: M, with neither sinks nor a window beyond the new token.
    """
    budget = CacheBudget(size=size, sinks=0, window=1)
    number, length = scores.shape
    expected = torch.tensor([heap_masks(row, size) for row in scores.tolist()])
    ranks = torch.arange(length).expand(number, -1)
    different = 0
    for count in range(1, length + 1):
        mask = bank_mask(scores[:, :count], ranks[:, :count], torch.full((number,), count), budget)
        different += int((mask != expected[:, count - 1, :count]).any(1).sum())
    return different


def all_sequences(length: int = LENGTH, levels: int = LEVELS) -> Tensor:
    """Return all sequences of ``levels`` scores, ties included, [levels ** length, length]."""
    return torch.tensor(list(itertools.product(range(levels), repeat=length)), dtype=torch.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare all sequences at several sizes, print the counts, and append a record; return 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m reproduction.claims.streaming_heap", description=__doc__)
    parser.add_argument("--record", type=Path, help="JSON Lines file to append the record to")
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(words)
    start, scores = time.perf_counter(), all_sequences()
    instance = f"all {len(scores)} sequences of {LENGTH} scores with {LEVELS} levels"
    measurements = [
        {
            "instance": instance,
            "quantity": "moments that differ",
            "value": float(count_differences(scores, size)),
            "mc_error": None,
            "at": {"M": size},
        }
        for size in SIZES
    ]
    total = sum(float(str(each["value"])) for each in measurements)
    print(f"{instance}, M in {SIZES}: {total:.0f} of {len(scores) * LENGTH * len(SIZES)} moments differ")
    if arguments.record is not None:
        result = Theory(
            claim=HEAP_CLAIM,
            source="section Limitations",
            instance=f"{instance}, M in {', '.join(map(str, SIZES))}",
            quantity="moments at which bank and min-heap differ",
            value=total,
            mc_error=None,
            verdict="holds" if total == 0 else "fails",
            measurements=measurements,
        )
        wall, command = time.perf_counter() - start, ["-m", "reproduction.claims.streaming_heap", *words]
        append_record(arguments.record, build_record(result, config={}, seed=0, wall_s=wall, argv=command))
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
