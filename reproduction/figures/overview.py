"""Draw the overview of quality against FLOPs that the README shows: a few methods, one subplot per data set."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Subplot, draw_subplots, setup_title
from reproduction.paper import ADAPTIVE
from retention.records.identity import settings
from retention.report.figure_style import GREY, curve_style
from retention.report.grouping import DENSE, EvaluationSetup, RunGroup, Runs

# Task, and training and test rows, of each subplot.
_SETUPS = (("sst2", "20000", "872"), ("imdb", "2000", "1000"), ("newsgroups20", "4000", "2000"))
_DEFAULTS: Mapping[str, float] = {"distill.saliency": 0, "distill.token_states": 0, "budgets.sampled": 0}
# Label, policy, and settings that differ from the defaults.
_CURVES: tuple[tuple[str, str, Mapping[str, float]], ...] = (
    ("adaptive, saliency-distilled", ADAPTIVE.policy, {"distill.saliency": 3}),
    ("adaptive", ADAPTIVE.policy, {}),
    ("attention top-k", "attention_topk", {}),
    ("random", "random", {}),
    ("first tokens", "truncate", {}),
    ("fewer layers", "fewer_layers", {}),
)


def overview_figure(runs: Runs) -> Figure:
    """Draw accuracy against the achieved FLOPs ratio; curves connect keep ratios, or numbers of layers."""
    subplots = []
    for task, train, test in _SETUPS:
        for setup in runs.setups(task):
            if (setup.train, setup.test) == (train, test):
                subplots.append(Subplot(setup_title(setup), partial(_draw, runs=runs, setup=setup)))
    figure = draw_subplots(subplots or [Subplot("quality against FLOPs")], columns=3)
    if subplots:
        by_label: dict[str, Artist] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                by_label.setdefault(label, handle)
        figure.legend(handles=by_label.values(), labels=by_label.keys(), loc="outside lower center", ncols=4)
    return figure


def _draw(axes: Axes, *, runs: Runs, setup: EvaluationSetup) -> None:
    for number, (label, policy, changes) in enumerate(_CURVES):
        points = sorted(
            (100.0 * group.flops_ratio, fmean(group.points()))
            for group in runs.groups(setup, policy)
            if group.points() and group.flops_ratio is not None and _has_settings(group, changes)
        )
        if points:
            costs, values = zip(*points, strict=True)
            axes.plot(costs, values, label=label, **curve_style(number))
    dense = [fmean(group.points()) for group in runs.groups(setup, DENSE) if _has_settings(group, {})]
    if dense:
        axes.axhline(dense[0], color=GREY, linestyle="--", linewidth=0.9, label=DENSE)
    axes.set_xlabel("FLOPs ratio, %")
    axes.set_ylabel(f"{setup.monitor}, mean over seeds")


def _has_settings(group: RunGroup, changes: Mapping[str, float]) -> bool:
    flat = settings(group.records[0].get("config") or {})
    shallow = flat.get("backbone.layers") is not None and group.policy != "fewer_layers"
    return not shallow and all(flat.get(key, 0) == value for key, value in {**_DEFAULTS, **changes}.items())
