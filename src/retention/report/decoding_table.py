"""Build the table of cache policies from the records of decoder runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from retention.records import Decoding
from retention.records.identity import variants
from retention.report.tables import markdown_table, text_frame

_FULL = "full"
_FIELDS = ("model", "texts", "share", "per_head")  # of records, beside their configuration


def decoding_table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table with one row per task, cache size, policy and settings; mean and deviation over seeds.

    Losses are in nats (lower is better), accuracies shares of exact answers. Settings in which runs of one policy
    differ stand beside its name. Of two records that differ in nothing the later one counts.

    Args:
        records: result records; other kinds than ``decoding`` are left out.

    Returns:
        The table, or an empty string if there is no such record.
    """
    runs: dict[tuple[str, str, int, str], list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: str(record.get("date", ""))):
        if record["kind"] == Decoding.kind and (measure := _measure(record)) is not None:
            key = (str(record["task"]), measure, int(record["size"]), str(record["policy"]))
            runs.setdefault(key, []).append(record)
    if not runs:
        return ""
    body = []
    for task, measure, size, policy in sorted(runs, key=lambda key: (key[:3], key[3] != _FULL)):
        for label, values in _by_settings(runs[task, measure, size, policy], measure).items():
            seeds = list(values.values())
            mean = f"{fmean(seeds):.4f}" + (f" ± {stdev(seeds):.4f}" if len(seeds) > 1 else "")
            body.append([task, str(size), f"{policy} ({label})" if label else policy, measure, mean, str(len(seeds))])
    return markdown_table(text_frame(("task", "cache", "policy", "measure", "value", "seeds"), body)) + "\n"


def main_value(record: Mapping[str, Any]) -> float | None:
    """Return the loss, F1 or accuracy of a ``decoding`` record, whichever is its main value; None for costs."""
    measure = _measure(record)
    return None if measure is None else float(record[measure])


def _measure(record: Mapping[str, Any]) -> str | None:
    return next((name for name in ("loss", "f1", "accuracy") if record.get(name) is not None), None)


def _by_settings(records: Sequence[Mapping[str, Any]], measure: str) -> dict[str, dict[int, float]]:
    """Return the values by the settings in which the records differ, and by seed; of equal ones the last counts."""
    fields = [name for name in _FIELDS if len({str(record.get(name)) for record in records}) > 1]
    found: dict[str, dict[int, float]] = {}
    for record, settings in zip(records, variants(records, short=True), strict=True):
        parts = [*(f"{name}={record.get(name)}" for name in fields), settings]
        label = ", ".join(part for part in parts if part)
        found.setdefault(label, {})[int(record["seed"])] = float(record[measure])
    return found
