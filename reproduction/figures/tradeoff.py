"""Quality against what is spent: FLOPs, and measured speed; ablations of ours are left to Table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Label, Panel, column_title, draw_panels, label_at_side
from reproduction.paper import ABLATED, ADAPTIVE
from reproduction.runs import (
    DENSE,
    Cells,
    Column,
    Record,
    Row,
    best_dense,
    columns_of,
    mean_of_measured,
    points,
    rows_of,
)
from reproduction.speeds import Setting, measured, setting_of
from retention.records.identity import variants
from retention.report.figure_style import GREY, INK, curve_style


@dataclass(frozen=True)
class Spot:
    """One policy at one share: what it costs and how good it is, with the standard deviation over seeds."""

    x: float
    y: float
    spread: float


Series = Mapping[str, list[Spot]]


def pareto_figure(cells: Cells) -> Figure:
    """Quality against the achieved share of FLOPs: one panel per column of runs, one curve per policy."""
    panels = []
    for column in columns_of(cells):
        series = _series(cells, column, {row: _flops(cells[row, column]) for row in _pruned(cells, column)})
        if series:
            draw = partial(_draw, column=column, series=series, dense=_dense(cells, column, 100.0), xlabel=_FLOPS)
            panels.append(Panel(column_title(column), draw))
    return draw_panels(panels or [Panel("quality against FLOPs")])


def speed_figure(cells: Cells, speeds: Sequence[Record]) -> Figure:
    """Quality against measured speed-up: one panel per column of runs and setting of the measurement."""
    panels = []
    for column in columns_of(cells):
        settings: dict[Setting, dict[Row, float]] = {}
        for row in _pruned(cells, column):
            for record in measured(speeds, cells[row, column][0], column):
                settings.setdefault(setting_of(record), {})[row] = float(record["speedup"]["median"])
        for setting in sorted(settings):
            series = _series(cells, column, settings[setting])
            dense = _dense(cells, column, 1.0)
            draw = partial(_draw, column=column, series=series, dense=dense, xlabel=_SPEED)
            where = f"{column_title(column)}\n{setting.machine}, batch {setting.batch}, {setting.length} tokens"
            panels.append(Panel(f"{where}, {setting.prune_at.replace('_', ' ')}", draw))
    return draw_panels(panels or [Panel("quality against speed")])


_FLOPS = "FLOPs on real tokens, % of dense"
_SPEED = "measured speed-up over the fastest dense variant"


def _pruned(cells: Cells, column: Column) -> list[Row]:
    pruned = (row for row in rows_of(cells, column) if row.policy not in {DENSE, *ABLATED})
    return [row for row in pruned if points(cells[row, column])]


def _flops(records: Sequence[Record]) -> float | None:
    share = mean_of_measured(record["flops_ratio"] for record in records)
    return None if share is None else 100.0 * share


def _series(cells: Cells, column: Column, costs: Mapping[Row, float | None]) -> Series:
    found: dict[str, list[Spot]] = {}
    for row, name in _names(cells, column, list(costs)).items():
        cost = costs[row]
        if cost is not None:
            found.setdefault(name, []).append(_spot(cells[row, column], cost))
    return {name: sorted(spots, key=lambda spot: spot.x) for name, spots in found.items()}


def _names(cells: Cells, column: Column, rows: Sequence[Row]) -> dict[Row, str]:
    """Row -> policy and the settings in which its runs differ at any share: equal settings are one curve."""
    names: dict[Row, str] = {}
    for policy in dict.fromkeys(row.policy for row in rows):
        own = [row for row in rows if row.policy == policy]
        for row, variant in zip(own, variants([cells[row, column][0] for row in own], short=True), strict=True):
            names[row] = f"{policy} ({variant})" if variant else policy
    return names


def _dense(cells: Cells, column: Column, x: float) -> Spot | None:
    row = best_dense(cells, column)
    return None if row is None else _spot(cells[row, column], x)


def _spot(records: Sequence[Record], x: float) -> Spot:
    values = points(records)
    return Spot(x, fmean(values), stdev(values) if len(values) > 1 else 0.0)


def _draw(axes: Axes, *, column: Column, series: Series, dense: Spot | None, xlabel: str) -> None:
    labels = []
    names = sorted(series, key=lambda name: (not name.startswith(ADAPTIVE.policy), name))
    for number, name in enumerate(names):
        spots, style = series[name], curve_style(number)
        axes.errorbar(
            [spot.x for spot in spots],
            [spot.y for spot in spots],
            yerr=[spot.spread for spot in spots],
            capsize=2.0,
            elinewidth=0.9,
            linewidth=2.4 if name.startswith(ADAPTIVE.policy) else 1.3,
            zorder=4 if number == 0 else 3,
            **style,
        )
        end = max(spots, key=lambda spot: spot.x)
        labels.append(Label(end.x, end.y, name, style["color"]))
    if dense is not None:
        axes.axhline(dense.y, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        axes.errorbar([dense.x], [dense.y], yerr=[dense.spread], color=INK, marker="*", markersize=11, capsize=2.0)
        labels.append(Label(dense.x, dense.y, DENSE, INK))
    axes.margins(x=0.06, y=0.1)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"{column.monitor.replace('_', ' ')}, points (± standard deviation)")
    label_at_side(axes, labels)
