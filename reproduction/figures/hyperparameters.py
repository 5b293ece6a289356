"""Figure 2: quality under sweeps of beta, gamma and zeta."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Panel, column_title, draw_panels
from reproduction.paper import BENCHMARKS, KNOBS
from reproduction.runs import Record, points
from reproduction.sweep_curves import Study, studies
from retention.report.figure_style import curve_style

_SIGNS = {"beta": r"$\beta$", "gamma": r"$\gamma$", "zeta": r"$\zeta$"}


_LEAST_RANGE = 4.0  # points a panel spans at least: a flat curve should look flat


def knob_figure(records: Iterable[Record]) -> Figure:
    """One panel per benchmark, or per group of runs where a benchmark has several; three curves, defaults starred."""
    found = studies(records)
    panels: list[Panel] = []
    for benchmark in BENCHMARKS:
        own = [study for study in found if study.column.task == benchmark.task]
        for study in own:
            title = f"{column_title(study.column)}, {100 * study.rho:.0f} % kept"
            panels.append(Panel(title, partial(_draw, study=study)))
        if not own:
            panels.append(Panel(benchmark.title))
    return draw_panels(panels, columns=3, side=0.2)


def _draw(axes: Axes, *, study: Study) -> None:
    for number, knob in enumerate(KNOBS):
        scored = {value: points(runs) for value, runs in study.curves.get(knob, {}).items() if points(runs)}
        if not scored:
            continue
        style = curve_style(number)
        values, means = list(scored), [fmean(found) for found in scored.values()]
        spreads = [stdev(found) if len(found) > 1 else 0.0 for found in scored.values()]
        axes.errorbar(values, means, yerr=spreads, capsize=2.0, elinewidth=0.9, **style)
        default = KNOBS[knob]
        if default in scored:
            mean = fmean(scored[default])
            axes.plot([default], [mean], "*", color=style["color"], markersize=15, markeredgecolor="white", zorder=5)
        _sign(axes, knob, values, [mean + extent for mean, extent in zip(means, spreads, strict=True)], style["color"])
    axes.set_xlabel(r"$\beta$ (temperature), $\gamma$ and $\zeta$ (stretch); star = default")
    axes.set_ylabel(f"{study.column.monitor.replace('_', ' ')}, points")
    low, high = axes.get_ylim()
    attention_output, half = (low + high) / 2, max(_LEAST_RANGE, 1.25 * (high - low)) / 2
    axes.set_ylim(attention_output - half, attention_output + half)


def _sign(axes: Axes, knob: str, values: Sequence[float], tops: Sequence[float], color: str) -> None:
    """The knob's letter above its curve, at the default or the value next to it."""
    place = min(range(len(values)), key=lambda place: abs(values[place] - KNOBS[knob]))
    axes.annotate(
        _SIGNS[knob],
        xy=(values[place], tops[place]),
        xytext=(0.0, 7.0),
        textcoords="offset points",
        color=color,
        fontsize=14,
        ha="center",
        va="bottom",
    )
