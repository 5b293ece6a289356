"""Speed records, ordered into what the figures show; reads records alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from retention.errors import DataError
from retention.records import Record


@dataclass(frozen=True, order=True)
class Setting:
    """What the curves of one panel have in common; ``batch`` is None where it changes with the length alone."""

    backbone: str
    phase: str
    source: str
    device: str
    dtype: str
    policy: str
    batch: int = -1

    @property
    def title(self) -> str:
        """Two lines."""
        batch = "" if self.batch < 0 else f", batch {self.batch}"
        step = "training step" if self.phase == "train" else self.phase
        return f"{self.backbone}, {step}{batch}\n{self.policy}, {self.source}, {self.dtype} on {self.device}"


@dataclass(frozen=True)
class Point:
    """One record: what a share of the tokens gives at one length.

    Attributes:
        rho: asked share.
        length: tokens per text.
        prune_at: where tokens leave a layer.
        batch: texts.
        speedup: median, 10th and 90th percentile, against the fastest dense variant.
        ideal: ratio of FLOPs.
        kept: share of the tokens that go on after each gated layer, by layer.
        saved: activations in use after each layer of a training step, MiB, cumulative: policy and dense; or None.
    """

    rho: float
    length: int
    prune_at: str
    batch: int
    speedup: tuple[float, float, float]
    ideal: float
    kept: dict[int, float]
    saved: tuple[Sequence[float], Sequence[float]] | None


@dataclass
class Panel:
    """The points of one setting."""

    setting: Setting
    points: list[Point] = field(default_factory=list)

    def rhos(self) -> list[float]:
        """Shares, largest first."""
        return sorted({point.rho for point in self.points}, reverse=True)

    def lengths(self) -> list[int]:
        """Lengths, shortest first."""
        return sorted({point.length for point in self.points})

    def prune_points(self) -> list[str]:
        """Places, ``after_layer`` first."""
        return sorted({point.prune_at for point in self.points}, reverse=True)

    def at(self, *, prune_at: str, rho: float | None = None, length: int | None = None) -> list[Point]:
        """Points of one curve, by length and then by share."""
        chosen = [
            point
            for point in self.points
            if point.prune_at == prune_at and rho in (None, point.rho) and length in (None, point.length)
        ]
        return sorted(chosen, key=lambda point: (point.length, point.rho))

    def by_rho(self, prune_at: str) -> list[tuple[int, float, list[Point]]]:
        """Curves over length: number of the share among all, the share, and its points, of which there are some."""
        curves = ((number, rho, self.at(prune_at=prune_at, rho=rho)) for number, rho in enumerate(self.rhos()))
        return [curve for curve in curves if curve[2]]


def panels(records: Iterable[Record]) -> list[Panel]:
    """Speed records by setting; of records of the same thing the last one counts.

    Raises:
        DataError: there is no speed record, or one lacks a field.
    """
    newest: dict[tuple[Any, ...], tuple[Setting, Point]] = {}
    for record in records:
        if record["kind"] == "speed":
            setting, point = _read(record)
            newest[setting, point.rho, point.length, point.prune_at, point.batch] = setting, point
    if not newest:
        raise DataError("there is no speed record among these; scripts/bench.py writes them")
    found: dict[Setting, list[Point]] = defaultdict(list)
    for setting, point in newest.values():
        found[setting].append(point)
    return sorted((panel for pair in found.items() for panel in _by_batch(*pair)), key=lambda panel: panel.setting)


def break_even(points: Sequence[Point]) -> tuple[float, str]:
    """Length from which on a curve of growing lengths is at least as fast as dense.

    Between two lengths the speed-up is taken as linear in the logarithm of the length.

    Returns:
        the length, and how it is to be read: ``crosses``; ``below``, faster at every length that was measured; or
        ``above``, slower at the longest one.
    """
    if points[-1].speedup[0] < 1.0:
        return float(points[-1].length), "above"
    for first, second in zip(points[-2::-1], points[:0:-1], strict=True):  # from the longest on
        low, high = first.speedup[0], second.speedup[0]
        if low < 1.0:
            part = (1.0 - low) / (high - low)
            return first.length * math.exp(part * math.log(second.length / first.length)), "crosses"
    return float(points[0].length), "below"


def _by_batch(setting: Setting, points: list[Point]) -> list[Panel]:
    """One panel, or one per batch size where a length was measured with several."""
    sizes = defaultdict(set)
    for point in points:
        sizes[point.length].add(point.batch)
    if max(map(len, sizes.values())) == 1:
        return [Panel(setting, points)]
    split: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        split[point.batch].append(point)
    fields = {name: getattr(setting, name) for name in Setting.__dataclass_fields__ if name != "batch"}
    return [Panel(Setting(**fields, batch=batch), each) for batch, each in split.items()]


def _read(record: Record) -> tuple[Setting, Point]:
    try:
        setting = Setting(
            backbone=record["backbone"],
            phase=record["phase"],
            source=str(record["data"]["source"]).split(" (")[0],
            device=record["device"],
            dtype=record["dtype"],
            policy=record["policy"],
        )
        speed, saved = record["speedup"], record.get("activations")
        return setting, Point(
            rho=record["rho"],
            length=record["length"],
            prune_at=record.get("prune_at", "after_layer"),
            batch=record["batch"],
            speedup=(speed["median"], speed["low"], speed["high"]),
            ideal=record["ideal_speedup"],
            kept={int(layer): share for layer, share in record["keep_ratio"]["by_layer"].items()},
            saved=None if saved is None else (saved["saved_by_layer"], saved["dense_saved_by_layer"]),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"speed record of {record.get('date', 'unknown date')}: no field {error}") from error
