"""Compare trained models by their measured time per row: pruned models beside shallower students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reproduction.paper import ADAPTIVE
from reproduction.sources import RecordSet
from retention.errors import DataError
from retention.records.identity import PRUNE_AT
from retention.report.grouping import DENSE, Record
from retention.report.tables import markdown_table, text_frame

FEWER_LAYERS = "fewer_layers"  # method of shallower students in records
UNPRUNED = (DENSE, FEWER_LAYERS)


def equal_time_table(records: RecordSet, task: str) -> str:
    """Return one row per model of the task's latest latency record, from slow to fast.

    Args:
        records: committed records.
        task: name of the task.

    Raises:
        DataError: there is no latency record of the task.
    """
    record = latest_latency(records, task)
    models = sorted(record["models"], key=lambda model: -float(model["ms_per_row"]["median"]))
    [metric] = {str(model["monitor"]) for model in models}
    header = ("method", "keep ratio", "layers", metric, "FLOPs ratio", "ms per row", "speedup")
    return markdown_table(text_frame(header, [_row(model) for model in models]))


def latest_latency(records: RecordSet, task: str) -> Record:
    """Return the latest latency record of a task.

    Raises:
        DataError: there is none.
    """
    matching = [record for record in records.records if record["kind"] == "latency" and record["task"] == task]
    if not matching:
        raise DataError(f"equal-time table: no latency record of {task} in results/speed; run retention bench-models")
    return max(matching, key=lambda record: str(record.get("date", "")))


def method_name(model: Mapping[str, Any]) -> str:
    """Return the method of an entry of a latency record, in words."""
    parts = [str(model["policy"]).replace("_", " ")]
    parts += ["saliency-distilled"] if model["policy"] == ADAPTIVE.policy and model["saliency"] > 0 else []
    place = str(model.get("prune_at", PRUNE_AT))
    parts += [f"pruned {place.replace('_', ' ')}"] if place != PRUNE_AT and model["policy"] not in UNPRUNED else []
    return ", ".join(parts)


def _row(model: Mapping[str, Any]) -> list[str]:
    speed, layers = model["speedup"], model["layers"]
    return [
        method_name(model),
        f"{model['rho']:g}",
        "all" if layers is None else str(layers),
        f"{100 * model['metric']:.2f}",
        f"{100 * model['flops_ratio']:.1f} %",
        f"{model['ms_per_row']['median']:.2f}",
        f"{speed['median']:.2f}x ({speed['low']:.2f}-{speed['high']:.2f})",
    ]
