"""Summarize records of decoders with a bounded key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from retention.errors import DataError
from retention.records import Decoding
from retention.report.grouping import Record
from retention.report.tables import markdown_table, text_frame

_FULL = "full"


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
    full = fmean(by_policy[_FULL])
    ordered = sorted(by_policy.items(), key=lambda item: (item[0] != _FULL, -fmean(item[1])))
    rows = [
        [policy, str(len(values)), _mean(values), f"{100 * fmean(values) / full:.0f} %"] for policy, values in ordered
    ]
    return markdown_table(text_frame(("cache", "seeds", "accuracy", "of the full cache"), rows))


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
