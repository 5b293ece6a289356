"""Draw the keep ratio after each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reproduction.depth_report import keep_ratio_by_layer
from reproduction.figures.canvas import Subplot, add_legend, draw_subplots, setup_title
from reproduction.paper import BUDGETS, PAPER_KEEP_RATIOS
from retention.report.figure_style import GREY, curve_style
from retention.report.grouping import RunGroup, Runs

_EQUAL = 0.02  # curves closer than this at every layer are drawn as one
Curve = Mapping[int, float]


def depth_figure(runs: Runs) -> Figure:
    """Draw one subplot per setup: keep ratio against depth, one curve per policy and keep ratio, the paper's dashed."""
    subplots = []
    for setup in runs.setups():
        curves = _curves(runs.groups(setup))
        if curves:
            subplots.append(Subplot(setup_title(setup), partial(_draw, task=setup.task, curves=curves)))
    return draw_subplots(subplots or [Subplot("keep ratio by depth")])


def _curves(groups: Sequence[RunGroup]) -> list[tuple[str, Curve]]:
    """Name the curves; policies with one schedule at one keep ratio share a curve with all their names."""
    merged: list[tuple[float, Curve, list[str]]] = []
    for group in groups:
        curve = keep_ratio_by_layer(group.records)
        if not curve:
            continue
        for rho, other, names in merged:
            if rho == group.rho and _equal(curve, other):
                names.append(group.policy)
                break
        else:
            merged.append((group.rho, curve, [group.policy]))
    ordered = sorted(merged, key=lambda entry: (-entry[0], entry[2]))
    return [(f"{rho:g} {_join(list(dict.fromkeys(names)))}", curve) for rho, curve, names in ordered]


def _join(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


def _equal(one: Curve, other: Curve) -> bool:
    return one.keys() == other.keys() and all(abs(one[layer] - other[layer]) < _EQUAL for layer in one)


def _draw(axes: Axes, *, task: str, curves: list[tuple[str, Curve]]) -> None:
    for rho, ratios in PAPER_KEEP_RATIOS.get(task, {}).items():
        style = "--" if rho == BUDGETS[0] else ":"
        axes.plot(range(1, len(ratios) + 1), ratios, style, color=GREY, linewidth=1.2, label=f"{rho:g} paper")
    for number, (name, curve) in enumerate(curves):
        layers, kept = [layer + 1 for layer in curve], [100.0 * ratio for ratio in curve.values()]
        axes.plot(layers, kept, label=name, **curve_style(number))
    axes.set_ylim(0.0, 105.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer, from 1 (the last one has no gate)")
    axes.set_ylabel("tokens kept, % of the sequence")
    add_legend(axes)
