"""Write the table of embedding records: quality beside time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retention.errors import DataError
from retention.records import Embedding, Record
from retention.report.tables import markdown_table, text_frame

_LEGEND = (
    "Quality in points, with the difference to the reference and its 95 % bootstrap interval over pairs, queries or "
    "texts. FLOPs and speed are relative to the reference."
)


def embedding_table(records: Iterable[Record]) -> str:
    """Build one Markdown table for each split, with one row per model, number format and keep ratio.

    Of two records of the same model, number format, keep ratio, split and reference, the later one counts.

    Args:
        records: result records; other kinds than ``embedding`` are left out.

    Raises:
        DataError: there is no embedding record.
    """
    latest: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if record["kind"] == Embedding.kind:
            latest[record["split"], record["reference"], *_model(record), record["rho"]] = record
    if not latest:
        raise DataError("no embedding records to make a table of; evaluate models with --record first")
    splits = dict.fromkeys(record["split"] for record in latest.values())
    tables = [
        _split_table(split, [record for record in latest.values() if record["split"] == split]) for split in splits
    ]
    return "\n".join([*tables, _LEGEND]) + "\n"


def _split_table(split: str, records: list[Record]) -> str:
    metrics = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    header = ["model", "rho", "keep ratio", "FLOPs ratio", *metrics, "ms/document", "speedup"]
    body = [
        [
            ", ".join(_model(record)),
            f"{record['rho']:g}",
            _range(record["keep_ratio"]),
            _range(record["flops_ratio"]),
            *(_metric(record, name) for name in metrics),
            *_speed(record["speed"]),
        ]
        for record in records
    ]
    sizes = dict.fromkeys(
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in description.items())
        for record in records
        for name, description in record["data"].items()
    )
    return "\n".join([f"Split: {split}", "", markdown_table(text_frame(header, body)), "", *sizes, ""])


def _model(record: Record) -> list[str]:
    """Return the name of the model and, unless it is float32, the number format."""
    precision = record.get("precision", "float32")
    return [record["model"]] if precision == "float32" else [record["model"], precision]


def _metric(record: Record, name: str) -> str:
    value = record["metrics"].get(name)
    if value is None:
        return "-"
    text = f"{100 * value:.1f}"
    difference = record["differences"].get(name)
    if difference is None:
        return text
    interval = (
        "" if difference["low"] is None else f" [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    )
    return f"{text} ({100 * difference['mean']:+.1f}{interval})"


def _range(by_benchmark: Mapping[str, float]) -> str:
    """Return the percentage, or the lowest and highest one over the benchmarks."""
    low, high = (f"{100 * value:.0f}" for value in (min(by_benchmark.values()), max(by_benchmark.values())))
    return f"{low}%" if low == high else f"{low}-{high}%"


def _speed(speed: Mapping[str, Any] | None) -> list[str]:
    if speed is None:
        return ["-", "-"]
    ratio = speed["speedup"]
    return [
        f"{speed['ms_per_document']['median']:.2f}",
        f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})",
    ]
