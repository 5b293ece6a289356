"""Build the table of cache policies from the records of decoder runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any

from retention.records import Decoding
from retention.report.tables import markdown_table, text_frame

_FULL = "full"


def decoding_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table with one row per task, cache size and policy; mean over seeds and standard deviation.

    Losses are in nats (lower is better), accuracies shares of exact answers. Of two records of the same policy, size
    and seed the later one counts.

    Args:
        records: result records; other kinds than ``decoding`` are left out.

    Returns:
        The table, or an empty string if there is no such record.
    """
    values: dict[tuple[str, str, int, str], dict[int, float]] = {}
    for record in records:
        if record["kind"] == Decoding.kind and (measured := main_value(record)) is not None:
            measure = "loss" if record.get("loss") is not None else "accuracy"
            key = (str(record["task"]), measure, int(record["size"]), str(record["policy"]))
            values.setdefault(key, {})[int(record["seed"])] = measured
    if not values:
        return ""
    body = []
    for task, measure, size, policy in sorted(values, key=lambda key: (key[:3], key[3] != _FULL)):
        seeds = list(values[task, measure, size, policy].values())
        mean = f"{fmean(seeds):.4f}" + (f" ± {stdev(seeds):.4f}" if len(seeds) > 1 else "")
        body.append([task, str(size), policy, measure, mean, str(len(seeds))])
    return markdown_table(text_frame(("task", "cache", "policy", "measure", "value", "seeds"), body)) + "\n"


def main_value(record: Mapping[str, Any]) -> float | None:
    """Return the loss, F1 or accuracy of a ``decoding`` record, whichever is its main value; None for costs."""
    found = (record.get(name) for name in ("loss", "f1", "accuracy"))
    return next((float(value) for value in found if value is not None), None)
