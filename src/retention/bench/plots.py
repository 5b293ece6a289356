"""Figures of speed records, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from retention.bench.curves import Panel, Point, break_even
from retention.report.figure_style import COLORS, GREY, STYLE, curve_style, save

LINES = {"after_layer": "-", "after_attention": "--"}
Draw = Callable[[Axes, Panel], None]


def draw_all(panels: Sequence[Panel], folder: Path) -> list[Path]:
    """Every figure that the records have points for; returns the files."""
    curves = [panel for panel in panels if len(panel.lengths()) > 1]
    trained = [panel for panel in panels if any(point.saved for point in panel.points)]
    wanted: list[tuple[str, Draw, Sequence[Panel]]] = [
        ("speedup_by_rho", by_rho, panels),
        ("speedup_by_length", by_length, curves),
        ("break_even", crossing, curves),
        ("share_of_ideal", ideal_share, panels),
        ("tokens_by_depth", tokens_by_depth, panels),
        ("memory_by_depth", memory_by_depth, trained),
    ]
    files = []
    for name, draw, shown in wanted:
        if shown:
            files += save(_figure(draw, shown), folder / name)
    return files


def by_rho(axes: Axes, panel: Panel) -> None:
    """Speed-up against the share of tokens, one curve per length."""
    for prune_at in panel.prune_points():
        for number, length in enumerate(panel.lengths()):
            points = panel.at(prune_at=prune_at, length=length)
            _speeds(
                axes,
                [point.rho for point in points],
                points,
                number,
                _label(panel, f"{length} tokens", prune_at),
                prune_at,
            )
    _share_axis(axes, panel)
    _speed_axis(axes)
    _explain_places(axes, panel)


def by_length(axes: Axes, panel: Panel) -> None:
    """Speed-up against length, one curve per share."""
    for prune_at in panel.prune_points():
        for number, rho, points in panel.by_rho(prune_at):
            _speeds(
                axes,
                [point.length for point in points],
                points,
                number,
                _label(panel, f"rho {rho:g}", prune_at),
                prune_at,
            )
    _length_axis(axes, panel)
    _speed_axis(axes)
    _explain_places(axes, panel)


def crossing(axes: Axes, panel: Panel) -> None:
    """Length where the speed-up reaches 1, against the share; triangles where it lies beyond what was measured."""
    marks = {"crosses": "o", "below": "v", "above": "^"}
    for number, prune_at in enumerate(panel.prune_points()):
        color = COLORS[number]
        found = [(rho, *break_even(points)) for _, rho, points in panel.by_rho(prune_at)]
        rhos, crossings, kinds = zip(*found, strict=True)
        axes.plot(rhos, crossings, LINES[prune_at], color=color, label=_readable(prune_at))
        for rho, length, kind in zip(rhos, crossings, kinds, strict=True):
            inside = color if kind == "crosses" else "white"
            axes.plot([rho], [length], marks[kind], color=color, markerfacecolor=inside)
    measured = panel.lengths()
    axes.set_yscale("log", base=2)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(measured, [str(length) for length in measured])
    axes.set_ylim(measured[0] / 1.4, measured[-1] * 1.4)
    axes.set_ylabel("tokens where the speed-up is 1")
    _share_axis(axes, panel)
    axes.set_xlabel(f"{axes.get_xlabel()}\n▽ faster at all lengths measured   △ slower at the longest")


def ideal_share(axes: Axes, panel: Panel) -> None:
    """How much of the FLOP-ideal speed-up is reached, against length."""
    for prune_at in panel.prune_points():
        for number, rho, points in panel.by_rho(prune_at):
            lengths = [float(point.length) for point in points]
            shares = [100.0 * point.speedup[0] / point.ideal for point in points]
            axes.plot(
                lengths, shares, LINES[prune_at], label=_label(panel, f"rho {rho:g}", prune_at), **curve_style(number)
            )
    axes.axhline(100.0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("share of the FLOP-ideal, %")
    _length_axis(axes, panel)
    _explain_places(axes, panel)


def tokens_by_depth(axes: Axes, panel: Panel) -> None:
    """Tokens that go on after each layer, as a share of the text, at the greatest length."""
    for number, rho, points in panel.by_rho(panel.prune_points()[0]):
        kept = points[-1].kept
        steps = [0, *(layer + 1 for layer in sorted(kept))]
        shares = [100.0, *(100.0 * kept[layer] for layer in sorted(kept))]
        axes.step(steps, shares, where="post", label=f"rho {rho:g}", **curve_style(number))
    axes.axhline(100.0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layers that have run")
    axes.set_ylabel("live tokens, % of the text")


def memory_by_depth(axes: Axes, panel: Panel) -> None:
    """Activations kept for the backward pass when each layer has run, at the greatest length; thin: dense."""
    longest = max(point.length for point in panel.points if point.saved is not None)
    for prune_at in panel.prune_points():
        for number, rho in enumerate(panel.rhos()):
            for point in panel.at(prune_at=prune_at, rho=rho, length=longest):
                if point.saved is not None:
                    own, dense = point.saved
                    style: dict[str, Any] = {"label": _label(panel, f"rho {rho:g}", prune_at), **curve_style(number)}
                    axes.plot(range(1, len(own) + 1), own, LINES[prune_at], **style)
                    axes.plot(range(1, len(dense) + 1), dense, color=GREY, linewidth=1.0)
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"layers that have run ({longest} tokens; grey: dense)")
    axes.set_ylabel("kept for backward, MiB per batch")
    _explain_places(axes, panel)


def _speeds(
    axes: Axes, prune_points: Sequence[float], points: Sequence[Point], number: int, name: str | None, prune_at: str
) -> None:
    """Medians with their 10th and 90th percentile, and the ideal, dotted."""
    if not points:
        return
    medians, lows, highs = (np.array([point.speedup[part] for point in points]) for part in range(3))
    style = curve_style(number)
    axes.errorbar(
        prune_points,
        medians,
        yerr=(medians - lows, highs - medians),
        linestyle=LINES[prune_at],
        capsize=2.0,
        label=name,
        **style,
    )
    axes.plot(prune_points, [point.ideal for point in points], ":", linewidth=1.0, color=style["color"])


def _share_axis(axes: Axes, panel: Panel) -> None:
    axes.invert_xaxis()
    _ticks(axes, panel.rhos())
    axes.set_xlabel("rho, share of tokens kept")


def _speed_axis(axes: Axes) -> None:
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("speed-up over the fastest dense\n(dotted: FLOP-ideal)")


def _length_axis(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log", base=2)
    _ticks(axes, [*map(float, panel.lengths())])
    axes.set_xlabel("tokens per text")


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value:g}" for value in values])


def _label(panel: Panel, name: str, prune_at: str) -> str | None:
    """A curve's entry in the legend: colours are explained once, not for every place."""
    return name if prune_at == panel.prune_points()[0] else None


def _explain_places(axes: Axes, panel: Panel) -> None:
    for prune_at in panel.prune_points() if len(panel.prune_points()) > 1 else ():
        axes.plot([], [], LINES[prune_at], color=GREY, label=_readable(prune_at))


def _readable(prune_at: str) -> str:
    return prune_at.replace("_", " ")


def _figure(draw: Draw, panels: Sequence[Panel]) -> Figure:
    """One panel per setting, three in a row, each with its legend beside it."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            draw(axes, panel)
            axes.set_title(panel.setting.title)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for axes in grid[len(panels) :]:
            axes.remove()
    return figure
