"""Group speed records into the panels and points that the figures show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from retention.errors import DataError
from retention.records import Record


@dataclass(frozen=True, order=True)
class PanelKey:
    """Settings that all points of a panel share; ``batch`` is -1 where every length has one batch size of its own."""

    backbone: str
    phase: str
    source: str
    device: str
    dtype: str
    policy: str
    batch: int = -1

    @property
    def title(self) -> str:
        """Title of the panel, in two lines."""
        batch = "" if self.batch < 0 else f", batch {self.batch}"
        step = "training step" if self.phase == "train" else self.phase
        return f"{self.backbone}, {step}{batch}\n{self.policy}, {self.source}, {self.dtype} on {self.device}"


@dataclass(frozen=True)
class SpeedPoint:
    """Values of one speed record.

    Attributes:
        rho: target keep ratio.
        length: tokens per sequence.
        prune_at: point in a layer where tokens are removed.
        batch: sequences per batch.
        speedup: median, 10th and 90th percentile, against the fastest dense variant.
        ideal: dense FLOPs / policy FLOPs.
        kept: layer_idx -> achieved keep ratio after that layer.
        saved: activations saved after each layer of a training step, MiB, cumulative: policy and dense; or None.
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
class SpeedPanel:
    """Points with the same settings."""

    key: PanelKey
    points: list[SpeedPoint] = field(default_factory=list)

    def rhos(self) -> list[float]:
        """Return the target keep ratios, largest first."""
        return sorted({point.rho for point in self.points}, reverse=True)

    def lengths(self) -> list[int]:
        """Return the lengths, shortest first."""
        return sorted({point.length for point in self.points})

    def prune_points(self) -> list[str]:
        """Return the prune points, ``after_layer`` first."""
        return sorted({point.prune_at for point in self.points}, reverse=True)

    def at(self, *, prune_at: str, rho: float | None = None, length: int | None = None) -> list[SpeedPoint]:
        """Select the points of one curve, by length and then by keep ratio."""
        selected = [
            point
            for point in self.points
            if point.prune_at == prune_at and rho in (None, point.rho) and length in (None, point.length)
        ]
        return sorted(selected, key=lambda point: (point.length, point.rho))

    def by_rho(self, prune_at: str) -> list[tuple[int, float, list[SpeedPoint]]]:
        """List the curves over length that have points: index of the keep ratio, the keep ratio, and the points."""
        curves = ((index, rho, self.at(prune_at=prune_at, rho=rho)) for index, rho in enumerate(self.rhos()))
        return [curve for curve in curves if curve[2]]


def group_into_panels(records: Iterable[Record]) -> list[SpeedPanel]:
    """Group speed records into panels; of several records of the same measurement the last one counts.

    Raises:
        DataError: there is no speed record, or one lacks a field.
    """
    newest: dict[tuple[Any, ...], tuple[PanelKey, SpeedPoint]] = {}
    for record in records:
        if record["kind"] == "speed":
            key, point = _read(record)
            newest[key, point.rho, point.length, point.prune_at, point.batch] = key, point
    if not newest:
        raise DataError("there is no speed record in these files; `retention bench` writes them")
    points: dict[PanelKey, list[SpeedPoint]] = defaultdict(list)
    for key, point in newest.values():
        points[key].append(point)
    return sorted((panel for pair in points.items() for panel in _by_batch(*pair)), key=lambda panel: panel.key)


def break_even(points: Sequence[SpeedPoint]) -> tuple[float, str]:
    """Find the length from which on a policy is at least as fast as the dense model.

    Between two lengths the speedup is interpolated linearly in the logarithm of the length.

    Args:
        points: one curve, by ascending length.

    Returns:
        the length and its kind: ``crosses`` = the speedup is 1 there; ``below`` = faster at every measured length, of
        which this is the shortest; ``above`` = slower at the longest measured length, which this is.
    """
    if points[-1].speedup[0] < 1.0:
        return float(points[-1].length), "above"
    for first, second in zip(points[-2::-1], points[:0:-1], strict=True):  # from the longest to the shortest
        low, high = first.speedup[0], second.speedup[0]
        if low < 1.0:
            fraction = (1.0 - low) / (high - low)
            return first.length * math.exp(fraction * math.log(second.length / first.length)), "crosses"
    return float(points[0].length), "below"


def _by_batch(key: PanelKey, points: list[SpeedPoint]) -> list[SpeedPanel]:
    """Build one panel, or one per batch size if a length was measured with several."""
    sizes = defaultdict(set)
    for point in points:
        sizes[point.length].add(point.batch)
    if max(map(len, sizes.values())) == 1:
        return [SpeedPanel(key, points)]
    split: dict[int, list[SpeedPoint]] = defaultdict(list)
    for point in points:
        split[point.batch].append(point)
    fields = {name: getattr(key, name) for name in PanelKey.__dataclass_fields__ if name != "batch"}
    return [SpeedPanel(PanelKey(**fields, batch=batch), each) for batch, each in split.items()]


def _read(record: Record) -> tuple[PanelKey, SpeedPoint]:
    try:
        key = PanelKey(
            backbone=record["backbone"],
            phase=record["phase"],
            source=str(record["data"]["source"]).split(" (")[0],
            device=record["device"],
            dtype=record["dtype"],
            policy=record["policy"],
        )
        speed, saved = record["speedup"], record.get("activations")
        return key, SpeedPoint(
            rho=record["rho"],
            length=record["length"],
            prune_at=record.get("prune_at", "after_layer"),
            batch=record["batch"],
            speedup=(speed["median"], speed["low"], speed["high"]),
            ideal=record["ideal_speedup"],
            kept={int(layer): ratio for layer, ratio in record["keep_ratio"]["by_layer"].items()},
            saved=None if saved is None else (saved["saved_by_layer"], saved["dense_saved_by_layer"]),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"speed record of {record.get('date', 'unknown date')}: no field {error}") from error
