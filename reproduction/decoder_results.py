"""Summarize records of decoders with a bounded key-value cache."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from retention.cache.policies.base import RescoringPolicy
from retention.cache.policies.named import FULL, LEARNED, POLICIES, build_policies
from retention.errors import DataError
from retention.records import Decoding
from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

_SEED = re.compile(r"-seed\d+$")  # end of the name of a file of scores


def recall_table(records: Sequence[Record]) -> str:
    """Return one row per cache policy: accuracy of associative recall in %, mean and standard deviation over seeds.

    Of two records of a policy and seed the later one counts.

    Args:
        records: committed records; only those of task ``symbol_recall`` are read.

    Raises:
        DataError: there is no such record, or the caches have several sizes.
    """
    latest: dict[tuple[str, int], Record] = {}
    for record in sorted(records, key=lambda each: str(each.get("date", ""))):
        if (record["kind"], record.get("task")) == (Decoding.kind, "symbol_recall"):
            latest[str(record["policy"]), int(record["seed"])] = record
    if not latest:
        raise DataError("recall table: no records in results/decoders; run python -m retention.cache.recall_experiment")
    sizes = {(record["size"], record["text_lengths"][0]) for record in latest.values()}
    if len(sizes) > 1:
        raise DataError(f"recall table: records of several cache sizes and contexts: {sorted(sizes)}")
    by_policy: dict[str, list[float]] = {}
    for (policy, _), record in latest.items():
        by_policy.setdefault(policy, []).append(100 * record["accuracy"])
    full = fmean(by_policy[FULL])
    ordered = sorted(by_policy.items(), key=lambda item: (item[0] != FULL, -fmean(item[1])))
    rows = [
        [policy, str(len(values)), _mean(values), f"{100 * fmean(values) / full:.0f} %"] for policy, values in ordered
    ]
    return markdown_table(text_frame(("cache", "seeds", "accuracy", "of the full cache"), rows))


def loss_table(records: Sequence[Record], length: int) -> str:
    """Return one row per cache policy: mean loss in nats after M tokens, for each M, and the share of the gap closed.

    The gap is that between the full cache and the best policy without training that reads no attention maps. Learned
    scores whose names differ only in ``-seed<number>`` are seeds of one method. Of two records the later one counts.

    Args:
        records: committed records; only those of task ``text`` are read.
        length: tokens of the texts.

    Raises:
        DataError: there is no such record, or a size lacks the full cache or policies to compare with.
    """
    latest: dict[tuple[str, int], Record] = {}
    for record in sorted(records, key=lambda each: str(each.get("date", ""))):
        if (record["kind"], record.get("task")) == (Decoding.kind, "text") and set(record["text_lengths"]) == {length}:
            latest[str(record["policy"]), int(record["size"])] = record
    if not latest:
        raise DataError(f"loss table: no records of texts of {length} tokens; run python -m retention.cache.evaluate")
    losses: dict[str, dict[int, list[float]]] = {}
    for (policy, size), record in latest.items():
        losses.setdefault(_SEED.sub("", policy), {}).setdefault(size, []).append(float(record["loss"]))
    sizes = sorted({size for _, size in latest})
    references = {size: _best_simple(losses, size) for size in sizes}
    header = [
        "cache",
        "attention maps",
        "seeds",
        *(f"M = {size}" for size in sizes),
        *(f"gap closed, {size}" for size in sizes),
    ]
    rows = []
    for policy, by_size in sorted(losses.items(), key=lambda item: _order(item[0], item[1], sizes)):
        cells = [_deviation(by_size[size], 3) if size in by_size else "-" for size in sizes]
        gaps = ["-" if policy == FULL else _gap_closed(by_size.get(size), losses, references, size) for size in sizes]
        seeds = max(len(values) for values in by_size.values())
        rows.append([_method(policy), _reads_attention(policy), str(seeds), *cells, *gaps])
    return markdown_table(text_frame(header, rows), labels=2)


def quarter_table(records: Sequence[Record]) -> str:
    """Return one row per cache policy: mean loss in nats in each quarter of the tokens after the first M.

    Seeds and repeated records are treated as in ``loss_table``.

    Args:
        records: committed records; only those of task ``text`` that have quarters are read.

    Raises:
        DataError: there is no such record, or the caches have several sizes.
    """
    latest: dict[str, Record] = {}
    for record in sorted(records, key=lambda each: str(each.get("date", ""))):
        if record["kind"] == Decoding.kind and record.get("loss_by_quarter"):
            latest[str(record["policy"])] = record
    sizes = {int(record["size"]) for record in latest.values()}
    if len(sizes) != 1:
        raise DataError(f"quarter table: needs records of one cache size with losses by quarter, got {sorted(sizes)}")
    quarters: dict[str, list[Sequence[float]]] = {}
    for policy, record in latest.items():
        quarters.setdefault(_method(policy), []).append(record["loss_by_quarter"])
    rows = [
        [policy, str(len(values)), *(_deviation(quarter, 3) for quarter in zip(*values, strict=True))]
        for policy, values in sorted(quarters.items(), key=lambda item: fmean(fmean(each) for each in item[1]))
    ]
    header = ("cache", "seeds", "first quarter", "second", "third", "last")
    return markdown_table(text_frame(header, rows))


def cost_table(records: Sequence[Record]) -> str:
    """Return one row per cache policy and form of decoding: memory, time of the prefill, time per token by length.

    Of two records of a policy, form and length the later one counts.

    Args:
        records: committed records; only those of task ``cost`` are read.

    Raises:
        DataError: there is no such record.
    """
    costs: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda each: str(each.get("date", ""))):
        if (record["kind"], record.get("task")) == (Decoding.kind, "cost"):
            cost = record["cost"]
            row = costs.setdefault((_method(record["policy"]), cost.get("form", "dynamic")), {})
            row[int(cost["length"])] = cost
    if not costs:
        raise DataError("cost table: no records in results/decoders; run python -m retention.cache.bench")
    lengths = sorted({length for row in costs.values() for length in row})
    longest = f"{lengths[-1]:,}"
    header = [
        "cache",
        "form",
        f"MiB at {longest}",
        f"prefill at {longest}, s",
        *(f"ms at {each:,}" for each in lengths),
    ]
    rows = []
    for (policy, form), row in costs.items():
        last = row.get(lengths[-1])
        cells = ["-", "-"] if last is None else [f"{last['cache_bytes'] / 2**20:.1f}", f"{last['prefill_s']:.1f}"]
        times = [f"{row[length]['ms_per_token']['median']:.1f}" if length in row else "-" for length in lengths]
        rows.append([policy, form, *cells, *times])
    return markdown_table(text_frame(header, rows), labels=2)


def _method(policy: str) -> str:
    """Return the name of a policy without the seed of its scorers."""
    return _SEED.sub("", policy).replace(LEARNED, "learned, ")


def _best_simple(losses: Mapping[str, Mapping[int, Sequence[float]]], size: int) -> float:
    """Return the lowest loss of the policies that need neither training nor attention maps."""
    simple = [policy for policy in POLICIES if policy != FULL and _reads_attention(policy) == "no"]
    found = [fmean(losses[policy][size]) for policy in simple if size in losses.get(policy, {})]
    if not found or size not in losses.get(FULL, {}):
        raise DataError(f"loss table: M = {size} needs records of {FULL} and of one of {', '.join(simple)}")
    return min(found)


def _gap_closed(
    values: Sequence[float] | None,
    losses: Mapping[str, Mapping[int, Sequence[float]]],
    references: Mapping[int, float],
    size: int,
) -> str:
    if values is None:
        return "-"
    gap = references[size] - fmean(losses[FULL][size])
    return f"{100 * (references[size] - fmean(values)) / gap:.0f} %" if gap > 0 else "-"


def _order(policy: str, by_size: Mapping[int, Sequence[float]], sizes: Sequence[int]) -> tuple[bool, float]:
    """Sort the full cache first, then by the loss at the middle size."""
    middle = sizes[len(sizes) // 2]
    return policy != FULL, fmean(by_size[middle]) if middle in by_size else float("inf")


def _reads_attention(policy: str) -> str:
    if policy.startswith(LEARNED) or policy == FULL:
        return "no"
    built = build_policies([policy], [], 0)[policy]
    return "yes" if isinstance(built, RescoringPolicy) and built.needs_attention else "no"


def _mean(values: Sequence[float]) -> str:
    return _deviation(values, 1)


def _deviation(values: Sequence[float], digits: int) -> str:
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
