"""Time variants in turn on the same documents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from retention.bench.timing import Quantiles, speedup_quantiles, synchronizer, time_interleaved
from retention.embedding_eval.evaluate import Variant


def time_variants(
    variants: Sequence[Variant], documents: Sequence[str], *, batch_size: int, rounds: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Time ``encode`` of every variant, tokenization included, in one interleaved run (A B C A B C ...).

    Batches hold documents of similar length.

    Args:
        variants: the reference first.
        documents: texts to embed.
        batch_size: texts per forward pass.
        rounds: timed rounds over all documents, >= 1; one more is run before them.
        device: where the models run.

    Returns:
        One entry per variant, see ``retention.records.Embedding.speed``.
    """
    ordered = sorted(documents, key=len)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    calls = {variant.label: [partial(_encode, variant, batch, batch_size) for batch in batches] for variant in variants}

    def progress(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\rtiming: round {done} of {total}", end=end, file=sys.stderr, flush=True)

    seconds = time_interleaved(calls, rounds=rounds, warmup=1, synchronize=synchronizer(device), on_round_end=progress)
    reference = seconds[variants[0].label]
    conditions = {
        "documents": len(ordered),
        "mean_characters": round(sum(map(len, ordered)) / len(ordered), 1),
        "batch": batch_size,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": device,
        "tokenization": "included",
    }
    return [_speed(reference, seconds[variant.label], len(ordered)) | conditions for variant in variants]


def _encode(variant: Variant, texts: list[str], batch_size: int) -> None:
    variant.model.encode(texts, rho=variant.rho, batch_size=batch_size)


def _speed(reference: Sequence[float], seconds: Sequence[float], count: int) -> dict[str, Any]:
    return {
        "ms_per_document": Quantiles.of([1000 * value / count for value in seconds]).as_dict(),
        "documents_per_s": Quantiles.of([count / value for value in seconds]).as_dict(),
        "speedup": speedup_quantiles(reference, seconds).as_dict(),
    }
