"""Check the paper's sketch of decoding with a bounded cache."""

from __future__ import annotations

from collections.abc import Iterator

from reproduction.claims.claim import BY_CONSTRUCTION, Claim, Finding, Verdict
from reproduction.sources import RecordSet
from retention.report.grouping import Record

_SOURCE = "section Limitations"
HEAP_CLAIM = "streaming_top_m"  # claim in the record of ``reproduction.claims.streaming_heap``


def decoding_claims() -> list[Claim]:
    """Return the claims on the bounded cache: it equals a min-heap of the top M, and its memory is bounded."""
    return [
        Claim(
            BY_CONSTRUCTION,
            "A streaming cache of the top M scores equals a min-heap, token by token",
            _SOURCE,
            _check_heap,
        ),
        Claim(
            BY_CONSTRUCTION,
            "The cache of kept states holds M tokens per layer, whatever the length",
            _SOURCE,
            _check_memory,
        ),
    ]


def _check_heap(records: RecordSet) -> Iterator[Finding]:
    """Take the verdict of the last comparison of bank and heap."""
    runs = [record for record in records.records if record["kind"] == "theory" and record["claim"] == HEAP_CLAIM]
    for record in runs[-1:]:
        verdict = Verdict.REPRODUCED if record["verdict"] == "holds" else Verdict.NOT_REPRODUCED
        yield Finding(verdict, f"{record['quantity']}: {record['value']:.0f}", record["instance"], (record,))


def _check_memory(records: RecordSet) -> Iterator[Finding]:
    """Compare the memory of the cache over prompt lengths, for each model, policy and size with two lengths or more."""
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records.records:
        if record["kind"] == "decoding" and record.get("task") == "cost" and record["policy"] != "full":
            groups.setdefault((record["model"], record["policy"], record["size"]), []).append(record)
    for (model, policy, size), runs in groups.items():
        costs = [record["cost"] for record in runs]
        lengths = sorted({cost["length"] for cost in costs})
        if len(lengths) < 2:
            continue
        held, memory = max(cost["peak_tokens"] for cost in costs), {cost["cache_bytes"] for cost in costs}
        verdict = Verdict.REPRODUCED if held <= size and len(memory) == 1 else Verdict.NOT_REPRODUCED
        mib = " / ".join(f"{each / 2**20:.2f}" for each in sorted(memory))
        measured = f"at most {held} tokens, {mib} MiB"
        listed = ", ".join(map(str, lengths))
        yield Finding(verdict, measured, f"{policy}; {model}; M = {size}; prompts of {listed} tokens", tuple(runs))
