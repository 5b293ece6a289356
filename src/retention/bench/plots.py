"""Draw figures of speed records, as PNG and SVG."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from retention.bench.curves import SpeedPanel, SpeedPoint, break_even, group_into_panels
from retention.errors import RetentionError
from retention.records import read_records
from retention.report.figure_style import COLORS, GREY, STYLE, curve_style, save_figure

LINE_STYLES = {"after_layer": "-", "after_attention": "--"}
DrawPanel = Callable[[Axes, SpeedPanel], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw every figure that the given records have points for, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="retention bench-plots",
        description="Draw speed records: speedup by keep ratio and length, break-even length, share of the ideal "
        "speedup, tokens and memory by depth.",
    )
    parser.add_argument("records", nargs="*", type=Path, help="record files (default: results/speed/*.jsonl)")
    parser.add_argument("--out", type=Path, default=Path("outputs/speed"), help="folder of the figures")
    options = parser.parse_args(argv)
    try:
        records = read_records(options.records or sorted(Path("results/speed").glob("*.jsonl")))
        files = draw_all(group_into_panels(records), options.out)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print("\n".join(os.path.relpath(file) for file in files))
    return 0


def draw_all(panels: Sequence[SpeedPanel], folder: Path) -> list[Path]:
    """Draw every figure that the panels have points for, and return the files."""
    several_lengths = [panel for panel in panels if len(panel.lengths()) > 1]
    trained = [panel for panel in panels if any(point.saved for point in panel.points)]
    figures: list[tuple[str, DrawPanel, Sequence[SpeedPanel]]] = [
        ("speedup_by_rho", speedup_by_rho, panels),
        ("speedup_by_length", speedup_by_length, several_lengths),
        ("break_even", break_even_length, several_lengths),
        ("share_of_ideal", share_of_ideal, panels),
        ("tokens_by_depth", tokens_by_depth, panels),
        ("memory_by_depth", memory_by_depth, trained),
    ]
    files = []
    for name, draw, shown in figures:
        if shown:
            files += save_figure(_figure(draw, shown), folder / name)
    return files


def speedup_by_rho(axes: Axes, panel: SpeedPanel) -> None:
    """Draw speedup against keep ratio, one curve per length."""
    for prune_at in panel.prune_points():
        for index, length in enumerate(panel.lengths()):
            points = panel.at(prune_at=prune_at, length=length)
            label = _label(panel, f"{length} tokens", prune_at)
            _draw_speedups(axes, [point.rho for point in points], points, index, label, prune_at)
    _rho_axis(axes, panel)
    _speedup_axis(axes)
    _add_prune_point_legend(axes, panel)


def speedup_by_length(axes: Axes, panel: SpeedPanel) -> None:
    """Draw speedup against length, one curve per keep ratio."""
    for prune_at in panel.prune_points():
        for index, rho, points in panel.by_rho(prune_at):
            label = _label(panel, f"rho {rho:g}", prune_at)
            _draw_speedups(axes, [point.length for point in points], points, index, label, prune_at)
    _length_axis(axes, panel)
    _speedup_axis(axes)
    _add_prune_point_legend(axes, panel)


def break_even_length(axes: Axes, panel: SpeedPanel) -> None:
    """Draw the length where the speedup reaches 1, against keep ratio; triangles where it was not measured."""
    markers = {"crosses": "o", "below": "v", "above": "^"}
    for index, prune_at in enumerate(panel.prune_points()):
        color = COLORS[index]
        crossings = [(rho, *break_even(points)) for _, rho, points in panel.by_rho(prune_at)]
        rhos, lengths, _ = zip(*crossings, strict=True)
        axes.plot(rhos, lengths, LINE_STYLES[prune_at], color=color, label=_prune_point_label(prune_at))
        for rho, length, kind in crossings:
            fill = color if kind == "crosses" else "white"
            axes.plot([rho], [length], markers[kind], color=color, markerfacecolor=fill)
    measured = panel.lengths()
    axes.set_yscale("log", base=2)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(measured, [str(length) for length in measured])
    axes.set_ylim(measured[0] / 1.4, measured[-1] * 1.4)
    axes.set_ylabel("tokens where the speedup is 1")
    _rho_axis(axes, panel)
    axes.set_xlabel(f"{axes.get_xlabel()}\n▽ faster at all measured lengths   △ slower at the longest")


def share_of_ideal(axes: Axes, panel: SpeedPanel) -> None:
    """Draw the measured speedup in percent of the ideal one, against length."""
    for prune_at in panel.prune_points():
        for index, rho, points in panel.by_rho(prune_at):
            lengths = [float(point.length) for point in points]
            percent = [100.0 * point.speedup[0] / point.ideal for point in points]
            label = _label(panel, f"rho {rho:g}", prune_at)
            axes.plot(lengths, percent, LINE_STYLES[prune_at], label=label, **_color_and_marker(index))
    axes.axhline(100.0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("speedup, % of the FLOPs ratio")
    _length_axis(axes, panel)
    _add_prune_point_legend(axes, panel)


def tokens_by_depth(axes: Axes, panel: SpeedPanel) -> None:
    """Draw the tokens left after each layer in percent, at the greatest length."""
    for index, rho, points in panel.by_rho(panel.prune_points()[0]):
        kept = points[-1].kept
        layers = [0, *(layer + 1 for layer in sorted(kept))]
        percent = [100.0, *(100.0 * kept[layer] for layer in sorted(kept))]
        axes.step(layers, percent, where="post", label=f"rho {rho:g}", **_color_and_marker(index))
    axes.axhline(100.0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layers that have run")
    axes.set_ylabel("tokens left, % of the sequence")


def memory_by_depth(axes: Axes, panel: SpeedPanel) -> None:
    """Draw the activations saved when each layer has run, at the greatest length; grey = dense."""
    longest = max(point.length for point in panel.points if point.saved is not None)
    for prune_at in panel.prune_points():
        for index, rho in enumerate(panel.rhos()):
            for point in panel.at(prune_at=prune_at, rho=rho, length=longest):
                if point.saved is not None:
                    policy, dense = point.saved
                    label, style = _label(panel, f"rho {rho:g}", prune_at), _color_and_marker(index)
                    axes.plot(range(1, len(policy) + 1), policy, LINE_STYLES[prune_at], label=label, **style)
                    axes.plot(range(1, len(dense) + 1), dense, color=GREY, linewidth=1.0)
    axes.set_ylim(bottom=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"layers that have run ({longest} tokens; grey: dense)")
    axes.set_ylabel("saved for backward, MiB per batch")
    _add_prune_point_legend(axes, panel)


def _draw_speedups(
    axes: Axes, x: Sequence[float], points: Sequence[SpeedPoint], index: int, label: str | None, prune_at: str
) -> None:
    """Draw medians with their 10th and 90th percentile, and the ideal speedup, dotted."""
    if not points:
        return
    medians, lows, highs = (np.array([point.speedup[part] for point in points]) for part in range(3))
    style = _color_and_marker(index)
    errors = (medians - lows, highs - medians)
    axes.errorbar(x, medians, yerr=errors, linestyle=LINE_STYLES[prune_at], capsize=2.0, label=label, **style)
    axes.plot(x, [point.ideal for point in points], ":", linewidth=1.0, color=style["color"])


def _color_and_marker(index: int) -> dict[str, Any]:
    """Return the style of a curve without its line style, which shows the prune point here."""
    return {key: value for key, value in curve_style(index).items() if key != "linestyle"}


def _rho_axis(axes: Axes, panel: SpeedPanel) -> None:
    axes.invert_xaxis()
    _ticks(axes, panel.rhos())
    axes.set_xlabel("target keep ratio rho")


def _speedup_axis(axes: Axes) -> None:
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("speedup over the fastest dense\n(dotted: FLOPs ratio)")


def _length_axis(axes: Axes, panel: SpeedPanel) -> None:
    axes.set_xscale("log", base=2)
    _ticks(axes, [*map(float, panel.lengths())])
    axes.set_xlabel("tokens per sequence")


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value:g}" for value in values])


def _label(panel: SpeedPanel, text: str, prune_at: str) -> str | None:
    """Return a curve's legend entry; colors are explained once, not for every prune point."""
    return text if prune_at == panel.prune_points()[0] else None


def _add_prune_point_legend(axes: Axes, panel: SpeedPanel) -> None:
    for prune_at in panel.prune_points() if len(panel.prune_points()) > 1 else ():
        axes.plot([], [], LINE_STYLES[prune_at], color=GREY, label=_prune_point_label(prune_at))


def _prune_point_label(prune_at: str) -> str:
    return prune_at.replace("_", " ")


def _figure(draw: DrawPanel, panels: Sequence[SpeedPanel]) -> Figure:
    """Draw the panels, three in a row, each with its legend beside it."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            draw(axes, panel)
            axes.set_title(panel.key.title)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for axes in grid[len(panels) :]:
            axes.remove()
    return figure


if __name__ == "__main__":
    sys.exit(main())
