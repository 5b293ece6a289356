"""Group speed records by the conditions they were measured under."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retention.errors import DataError
from retention.records.identity import settings, word
from retention.report.grouping import Record, RunGroup

_REQUIRED = ("phase", "backbone", "device", "dtype", "batch", "length", "policy", "rho", "baseline", "speedup")
_METHOD_KEYS = ("retention.", "prune_at")


@dataclass(frozen=True, order=True)
class SpeedConditions:
    """Conditions of a measurement; two measurements may be compared only if all of them are equal.

    Attributes:
        phase: ``inference`` or ``train``.
        backbone: name of the encoder.
        source: description of the rows.
        length: number of tokens that rows are cut to.
        batch: rows per batch.
        dtype: number format.
        device: ``cpu``, ``cuda`` or ``mps``.
        machine: processor, with the number of threads.
        prune_at: pruning location.
        recomputed: True = the backward pass computes the activations of the layers again (gradient checkpointing).
    """

    phase: str
    backbone: str
    source: str
    length: int
    batch: int
    dtype: str
    device: str
    machine: str
    prune_at: str
    recomputed: bool = False

    def describe_without_pruning(self) -> str:
        """Return all conditions but the pruning location in one line."""
        return (
            f"{self.phase}, {self.backbone}, {self.source}, up to {self.length} tokens, batch {self.batch}, "
            f"{self.dtype} on {self.machine}{', gradient checkpointing' if self.recomputed else ''}"
        )

    def describe(self) -> str:
        """Return all conditions in one line, for captions."""
        return f"{self.describe_without_pruning()}, pruning {self.prune_at.replace('_', ' ')}"


def group_speeds(records: Iterable[Record]) -> dict[SpeedConditions, list[Record]]:
    """Group speed records by their conditions; of two that measured the same method the later one counts.

    Raises:
        DataError: a record lacks a field.
    """
    groups: dict[SpeedConditions, dict[tuple[str, float, frozenset[str]], Record]] = {}
    for record in sorted(records, key=lambda record: str(record.get("date", ""))):
        missing = [field for field in _REQUIRED if field not in record]
        if missing:
            when = record.get("date", "unknown date")
            raise DataError(f"speed record of {when}: lacks {', '.join(missing)}; remove it or measure again")
        method = record["policy"], float(record["rho"]), method_settings(record)
        groups.setdefault(conditions_of(record), {})[method] = record
    return {conditions: list(groups[conditions].values()) for conditions in sorted(groups)}


def matching_speeds(speeds: Iterable[Record], group: RunGroup) -> list[Record]:
    """Return the inference measurements that belong to a group of runs.

    Policy and its settings, keep ratio, encoder, pruning location and maximum length are the same.
    """
    method = method_settings(group.records[0])
    matches = [
        record
        for records in group_speeds(speeds).values()
        for record in of_policy(records, group.policy, group.rho)
        if record["phase"] == "inference"
        and record["backbone"] == group.setup.backbone
        and str(record["length"]) == group.setup.length
        and method_settings(record) == method
    ]
    return sorted(matches, key=conditions_of)


def method_settings(record: Record) -> frozenset[str]:
    """Return the policy's settings and the pruning location, ``key=value`` each."""
    flat = settings(record.get("config") or {})
    if "prune_at" in record:  # speed records hold it beside the configuration
        flat["prune_at"] = record["prune_at"]
    return frozenset(f"{key}={word(value)}" for key, value in flat.items() if key.startswith(_METHOD_KEYS))


def format_speedup(record: Record) -> str:
    """Format the measured speedup with its 10-90 % range over rounds."""
    speedup = record["speedup"]
    return f"{speedup['median']:.2f}x ({speedup['low']:.2f}-{speedup['high']:.2f})"


def of_policy(records: Sequence[Record], policy: str, rho: float) -> list[Record]:
    """Return the records of one policy at one target keep ratio."""
    return [record for record in records if (record["policy"], float(record["rho"])) == (policy, rho)]


def conditions_of(record: Record) -> SpeedConditions:
    """Return the conditions of a speed record."""
    machine = record.get("machine") or {}
    if record["device"] == "cpu":
        threads = (record.get("timing") or {}).get("threads") or machine.get("cores", "?")
        processor = f"{threads} threads of {machine.get('cpu', 'an unknown CPU')}"
    else:
        processor = str(machine.get("gpu") or record["device"])
    return SpeedConditions(
        phase=record["phase"],
        backbone=record["backbone"],
        source=str((record.get("data") or {}).get("source", "unnamed rows")),
        length=int(record["length"]),
        batch=int(record["batch"]),
        dtype=record["dtype"],
        device=record["device"],
        machine=processor,
        prune_at=str(record.get("prune_at", "after_layer")),
        recomputed=bool(settings(record.get("config") or {}).get("backbone.gradient_checkpointing", False)),
    )
