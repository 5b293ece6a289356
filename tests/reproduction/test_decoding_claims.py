"""Check the claims on decoding against made-up records, and the comparison with the min-heap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reproduction.claims import streaming_heap
from reproduction.claims.claim import Verdict
from reproduction.claims.decoding import decoding_claims
from reproduction.claims.streaming_heap import all_sequences, count_differences
from reproduction.sources import RecordSet

from retention.records import read_objects


def verdicts(records: list[dict[str, Any]]) -> list[list[Verdict]]:
    return [[finding.verdict for finding in claim.check(RecordSet(tuple(records)))] for claim in decoding_claims()]


def cost(length: int, cache_bytes: int = 1000, peak: int = 64, policy: str = "key_norm") -> dict[str, Any]:
    measured = {"length": length, "cache_bytes": cache_bytes, "peak_tokens": peak}
    return {"kind": "decoding", "task": "cost", "model": "m", "policy": policy, "size": 64, "cost": measured}


def test_bounded_memory_needs_equal_bytes_at_two_lengths() -> None:
    assert verdicts([cost(100), cost(200)])[1] == [Verdict.REPRODUCED]
    assert verdicts([cost(100), cost(200, cache_bytes=1001)])[1] == [Verdict.NOT_REPRODUCED]
    assert verdicts([cost(100), cost(200, peak=65)])[1] == [Verdict.NOT_REPRODUCED]
    assert verdicts([cost(100), cost(100)])[1] == []
    assert verdicts([cost(100, policy="full"), cost(200, cache_bytes=2000, policy="full")])[1] == []


def test_the_comparison_with_a_heap_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_heap, "LENGTH", 4)
    monkeypatch.setattr(streaming_heap, "all_sequences", lambda: all_sequences(4, 3))
    assert streaming_heap.main(["--record", str(tmp_path / "heap.jsonl")]) == 0
    [record] = [row for _, row in read_objects(tmp_path / "heap.jsonl")]
    assert record["value"] == 0 and len(record["measurements"]) == len(streaming_heap.SIZES)
    assert verdicts([record])[0] == [Verdict.REPRODUCED]
    assert verdicts([record | {"verdict": "fails"}])[0] == [Verdict.NOT_REPRODUCED]


def test_a_heap_of_another_size_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    scores = torch.rand(20, 7, generator=torch.Generator().manual_seed(0))
    assert count_differences(scores, 3) == 0
    original = streaming_heap.heap_masks
    monkeypatch.setattr(streaming_heap, "heap_masks", lambda row, size: original(row, size + 1))
    assert count_differences(scores, 3) > 20
