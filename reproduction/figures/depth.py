"""Which share of the tokens is left after each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reproduction.depth_report import kept_by_layer
from reproduction.figures.canvas import Panel, column_title, draw_panels
from reproduction.paper import BUDGETS, KEPT_BY_LAYER
from reproduction.runs import Cells, Column, columns_of, rows_of
from retention.report.figure_style import GREY, curve_style

_LETTERS = 24  # of a line in the legend
_SAME = 0.02  # shares closer than this at every layer are one curve
Curve = Mapping[int, float]


def depth_figure(cells: Cells) -> Figure:
    """One panel per column of runs: kept share against depth, one curve per policy and share, the paper's dashed."""
    panels = []
    for column in columns_of(cells):
        curves = _curves(cells, column)
        if curves:
            panels.append(Panel(column_title(column), partial(_draw, column=column, curves=curves)))
    return draw_panels(panels or [Panel("kept share by depth")])


def _curves(cells: Cells, column: Column) -> list[tuple[str, Curve]]:
    """Named curves; policies that share a schedule at one rho are one curve with all their names."""
    groups: list[tuple[float, Curve, list[str]]] = []
    for row in rows_of(cells, column):
        curve = kept_by_layer(cells[row, column])
        if not curve:
            continue
        for rho, other, names in groups:
            if rho == row.rho and _same(curve, other):
                names.append(row.label())
                break
        else:
            groups.append((row.rho, curve, [row.label()]))
    ordered = sorted(groups, key=lambda group: (-group[0], group[2]))
    return [(f"{rho:g} {_listed(names)}", curve) for rho, curve, names in ordered]


def _listed(names: list[str]) -> str:
    told = ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"
    return textwrap.fill(told, _LETTERS)


def _same(one: Curve, other: Curve) -> bool:
    return one.keys() == other.keys() and all(abs(one[layer] - other[layer]) < _SAME for layer in one)


def _draw(axes: Axes, *, column: Column, curves: list[tuple[str, Curve]]) -> None:
    for rho, shares in KEPT_BY_LAYER.get(column.task, {}).items():
        style = "--" if rho == BUDGETS[0] else ":"
        axes.plot(range(1, len(shares) + 1), shares, style, color=GREY, linewidth=1.2, label=f"{rho:g} paper")
    for number, (name, curve) in enumerate(curves):
        layers, kept = [layer + 1 for layer in curve], [100.0 * share for share in curve.values()]
        axes.plot(layers, kept, label=name, **curve_style(number))
    axes.set_ylim(0.0, 105.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer, from 1 (the last one has no gate)")
    axes.set_ylabel("tokens that go on, % of the text")
    # curves meet at both ends, so names stand in a legend
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8.0, handlelength=2.2)
