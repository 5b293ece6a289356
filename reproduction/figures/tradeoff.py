"""Draw quality against FLOPs and against measured speed; ablations of our method are reported in Table 3 only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Subplot, add_legend, draw_subplots, setup_title
from reproduction.paper import ABLATION_POLICIES, ADAPTIVE
from reproduction.speeds import SpeedConditions, conditions_of, matching_speeds
from retention.records.identity import variants
from retention.report.figure_style import GREY, INK, curve_style
from retention.report.grouping import DENSE, EvaluationSetup, Record, RunGroup, Runs, headline

_FLOPS_LABEL = "FLOPs on real tokens, % of dense"
_SPEED_LABEL = "measured speedup over the fastest dense variant"


@dataclass(frozen=True)
class TradeoffPoint:
    """Cost and quality of one policy at one keep ratio, with the standard deviation over seeds."""

    cost: float
    quality: float
    deviation: float


Curves = Mapping[str, list[TradeoffPoint]]


def pareto_figure(runs: Runs) -> Figure:
    """Draw quality against the achieved FLOPs ratio: one subplot per setup, one curve per policy."""
    subplots = []
    for setup in runs.setups():
        costs = {group: 100.0 * group.flops_ratio for group in _pruned(runs, setup) if group.flops_ratio is not None}
        if costs:
            dense = _dense_point(runs, setup, 100.0)
            draw = partial(_draw, setup=setup, curves=_curves(costs), dense=dense, xlabel=_FLOPS_LABEL)
            subplots.append(Subplot(setup_title(setup), draw))
    return draw_subplots(subplots or [Subplot("quality against FLOPs")])


def speed_figure(runs: Runs, speeds: Sequence[Record]) -> Figure:
    """Draw quality against measured speedup: one subplot per setup and conditions of the measurement."""
    subplots = []
    for setup in runs.setups():
        by_conditions: dict[SpeedConditions, dict[RunGroup, float]] = {}
        for group in _pruned(runs, setup):
            for record in matching_speeds(speeds, group):
                costs = by_conditions.setdefault(conditions_of(record), {})
                costs[group] = float(record["speedup"]["median"])
        for conditions in sorted(by_conditions):
            dense = _dense_point(runs, setup, 1.0)
            curves = _curves(by_conditions[conditions])
            draw = partial(_draw, setup=setup, curves=curves, dense=dense, xlabel=_SPEED_LABEL)
            hardware = f"{conditions.machine}, batch {conditions.batch}, {conditions.length} tokens"
            title = f"{setup_title(setup)}\n{hardware}, {conditions.prune_at.replace('_', ' ')}"
            subplots.append(Subplot(title, draw))
    return draw_subplots(subplots or [Subplot("quality against speed")])


def _pruned(runs: Runs, setup: EvaluationSetup) -> list[RunGroup]:
    groups = (group for group in runs.groups(setup) if group.policy not in {DENSE, *ABLATION_POLICIES})
    return [group for group in groups if group.points()]


def _curves(costs: Mapping[RunGroup, float]) -> Curves:
    """Return name -> points; runs of a policy with equal settings are one curve over the keep ratios."""
    curves: dict[str, list[TradeoffPoint]] = {}
    for policy in dict.fromkeys(group.policy for group in costs):
        groups = [group for group in costs if group.policy == policy]
        labels = variants([group.records[0] for group in groups], short=True)
        for group, variant in zip(groups, labels, strict=True):
            name = f"{policy} ({variant})" if variant else policy
            curves.setdefault(name, []).append(_point(group, costs[group]))
    return {name: sorted(points, key=lambda point: point.cost) for name, points in curves.items()}


def _dense_point(runs: Runs, setup: EvaluationSetup, cost: float) -> TradeoffPoint | None:
    dense = headline([group for group in runs.groups(setup, DENSE) if group.points()])
    return None if dense is None else _point(dense, cost)


def _point(group: RunGroup, cost: float) -> TradeoffPoint:
    values = group.points()
    return TradeoffPoint(cost, fmean(values), stdev(values) if len(values) > 1 else 0.0)


def _draw(axes: Axes, *, setup: EvaluationSetup, curves: Curves, dense: TradeoffPoint | None, xlabel: str) -> None:
    names = sorted(curves, key=lambda name: (not name.startswith(ADAPTIVE.policy), name))
    for number, name in enumerate(names):
        points = curves[name]
        axes.errorbar(
            [point.cost for point in points],
            [point.quality for point in points],
            yerr=[point.deviation for point in points],
            capsize=2.0,
            elinewidth=0.9,
            linewidth=2.4 if name.startswith(ADAPTIVE.policy) else 1.3,
            zorder=4 if number == 0 else 3,
            label=name,
            **curve_style(number),
        )
    if dense is not None:
        axes.axhline(dense.quality, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        style: dict[str, Any] = {"color": INK, "marker": "*", "markersize": 11, "linestyle": "--"}
        axes.errorbar([dense.cost], [dense.quality], [dense.deviation], capsize=2.0, label=DENSE, **style)
    axes.margins(x=0.06, y=0.1)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"{setup.monitor.replace('_', ' ')}, points (± standard deviation)")
    add_legend(axes)
