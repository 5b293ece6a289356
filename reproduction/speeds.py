"""Speed records sorted into what may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reproduction.runs import Column, Record
from retention.errors import DataError
from retention.records.identity import settings, word

_NEEDED = ("phase", "backbone", "device", "dtype", "batch", "length", "policy", "rho", "baseline", "speedup")
_METHOD = ("retention.", "prune_at")


@dataclass(frozen=True, order=True)
class Setting:
    """What a measurement was taken with; two measurements may be compared only if all of it is equal."""

    phase: str
    backbone: str
    source: str
    length: int
    batch: int
    dtype: str
    device: str
    machine: str
    prune_at: str

    def conditions(self) -> str:
        """All but the place of removal."""
        return (
            f"{self.phase}, {self.backbone}, {self.source}, up to {self.length} tokens, batch {self.batch}, "
            f"{self.dtype} on {self.machine}"
        )

    def label(self) -> str:
        """For captions."""
        return f"{self.conditions()}, removal {self.prune_at.replace('_', ' ')}"


def sort_speeds(records: Iterable[Record]) -> dict[Setting, list[Record]]:
    """Speed records by setting; of two that measured the same method the later one counts.

    Raises:
        DataError: a record lacks a field.
    """
    groups: dict[Setting, dict[tuple[str, float, frozenset[str]], Record]] = {}
    for record in sorted(records, key=lambda record: str(record.get("date", ""))):
        missing = [field for field in _NEEDED if field not in record]
        if missing:
            when = record.get("date", "unknown date")
            raise DataError(f"speed record of {when}: lacks {', '.join(missing)}; it cannot be put into a table")
        key = record["policy"], float(record["rho"]), method_settings(record)
        groups.setdefault(setting_of(record), {})[key] = record
    return {setting: list(groups[setting].values()) for setting in sorted(groups)}


def measured(speeds: Iterable[Record], quality: Record, column: Column) -> list[Record]:
    """The inference measurements that belong to a quality record.

    Same policy with the same settings, share, encoder, place of removal, and rows cut to the same length.
    """
    found = [
        record
        for group in sort_speeds(speeds).values()
        for record in group
        if record["phase"] == "inference"
        and (record["policy"], float(record["rho"])) == (quality["policy"], float(quality["rho"]))
        and record["backbone"] == column.backbone
        and str(record["length"]) == column.length
        and method_settings(record) == method_settings(quality)
    ]
    return sorted(found, key=setting_of)


def method_settings(record: Record) -> frozenset[str]:
    """The policy's settings and the place of removal, ``key=value`` each."""
    flat = settings(record.get("config") or {})
    if "prune_at" in record:  # speed records tell it beside the configuration
        flat["prune_at"] = record["prune_at"]
    return frozenset(f"{key}={word(value)}" for key, value in flat.items() if key.startswith(_METHOD))


def turns(record: Record) -> str:
    """The measured speed-up with its 10-90 % range over rounds."""
    found = record["speedup"]
    return f"{found['median']:.2f}x ({found['low']:.2f}-{found['high']:.2f})"


def of_policy(records: Sequence[Record], policy: str, rho: float) -> list[Record]:
    """The records of one policy at one asked share."""
    return [record for record in records if (record["policy"], float(record["rho"])) == (policy, rho)]


def setting_of(record: Record) -> Setting:
    """What a speed record was measured with."""
    machine = record.get("machine") or {}
    threads = (record.get("timing") or {}).get("threads")
    if record["device"] == "cpu":
        where = f"{threads or machine.get('cores', '?')} threads of {machine.get('cpu', 'an unknown CPU')}"
    else:
        where = str(machine.get("gpu") or record["device"])
    return Setting(
        phase=record["phase"],
        backbone=record["backbone"],
        source=str((record.get("data") or {}).get("source", "unnamed rows")),
        length=int(record["length"]),
        batch=int(record["batch"]),
        dtype=record["dtype"],
        device=record["device"],
        machine=where,
        prune_at=str(record.get("prune_at", "after_layer")),
    )
