"""Draw Figure 2: quality under sweeps of beta, gamma and zeta."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Subplot, add_legend, draw_subplots, setup_title
from reproduction.paper import BENCHMARKS, HYPERPARAMETERS
from reproduction.sweep_curves import Sweep, find_sweeps
from retention.records import Quality, Validation
from retention.report.figure_style import curve_style
from retention.report.grouping import Record

_SYMBOLS = {"beta": r"$\beta$", "gamma": r"$\gamma$", "zeta": r"$\zeta$"}
_MIN_RANGE = 4.0  # points that an axis spans at least: a flat curve should look flat


def hyperparameter_figure(records: Iterable[Record]) -> Figure:
    """Draw one subplot per benchmark and sweep: three curves, with a star at the default values.

    A benchmark without a sweep has an empty subplot, unless the records are of other tasks alone.
    """
    records = list(records)
    tasks = {record["task"] for record in records if record["kind"] in (Quality.kind, Validation.kind)}
    sweeps = find_sweeps(records)
    subplots: list[Subplot] = []
    for benchmark in BENCHMARKS:
        of_task = [sweep for sweep in sweeps if sweep.setup.task == benchmark.task]
        for sweep in of_task:
            title = f"{setup_title(sweep.setup)}, {100 * sweep.rho:.0f} % kept"
            subplots.append(Subplot(title, partial(_draw, sweep=sweep)))
        if not of_task and (benchmark.task in tasks or not tasks):
            subplots.append(Subplot(benchmark.title))
    return draw_subplots(subplots, columns=3)


def _draw(axes: Axes, *, sweep: Sweep) -> None:
    for number, (name, default) in enumerate(HYPERPARAMETERS.items()):
        curve = sweep.curves.get(name, {})
        points = {value: group.points() for value, group in curve.items() if group.points()}
        if not points:
            continue
        style = curve_style(number)
        values, means = list(points), [fmean(scores) for scores in points.values()]
        deviations = [stdev(scores) if len(scores) > 1 else 0.0 for scores in points.values()]
        axes.errorbar(values, means, deviations, capsize=2.0, elinewidth=0.9, label=_SYMBOLS[name], **style)
        if default in points:
            mean = fmean(points[default])
            axes.plot([default], [mean], "*", color=style["color"], markersize=15, markeredgecolor="white", zorder=5)
    axes.set_xlabel(r"$\beta$ (temperature), $\gamma$ and $\zeta$ (stretch); star = default")
    axes.set_ylabel(f"{sweep.setup.monitor.replace('_', ' ')}, points")
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, max(_MIN_RANGE, 1.25 * (high - low)) / 2
    axes.set_ylim(middle - half, middle + half)
    add_legend(axes)
