"""Draw quality against the measured time per row: our models, shallower students, baselines, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.figures.canvas import Subplot, draw_subplots
from reproduction.figures.labels import Label, place_labels
from reproduction.sources import RecordSet
from reproduction.timed_models import TIMED_TASKS, TimedModel, latency_name, latest_latency, task_of, timed_models
from retention.records.identity import PRUNE_AT
from retention.report.figure_style import COLORS, GREY, INK
from retention.report.grouping import Record

_STYLES = {"ours": (COLORS[1], "o"), "shallow": (COLORS[0], "s"), "dense": (INK, "*"), "baseline": (GREY, "X")}
_SIZE = (6.4, 4.2)  # inches of one subplot


def equal_time_figure(records: RecordSet) -> Figure:
    """Draw one subplot per task with a latency record.

    Of our models and of the shallower students, a line connects those that no other of the same kind beats in time and
    score. The Pareto front does so for all models. Bars are standard deviations over seeds. Models that were also
    trained longer, and are better then, are pale and have no label.
    """
    tasks = sorted({latency_name(record) for record in records.records if record["kind"] == "latency"})
    subplots = []
    for task in tasks:
        rows, metric = TIMED_TASKS.get(task_of(task), (task, "score"))
        draw = partial(
            _draw, models=timed_models(records, task), metric=metric, hardware=_hardware(latest_latency(records, task))
        )
        subplots.append(Subplot(rows, draw))
    figure = draw_subplots(subplots or [Subplot("quality against time per row")])
    figure.set_size_inches(_SIZE[0] * min(2, max(1, len(subplots))), _SIZE[1] * max(1, (len(subplots) + 1) // 2))
    figure.draw_without_rendering()  # fixes the size of the axes
    for axes, task in zip(figure.axes, tasks, strict=False):
        place_labels(axes, _labels(timed_models(records, task)), fontsize=8)
    return figure


def pareto_front(models: Sequence[TimedModel]) -> list[TimedModel]:
    """Return the models that no other one beats in score without being slower, from slow to fast."""
    front: list[TimedModel] = []
    for model in sorted(models, key=lambda model: (model.ms_per_row, -model.score)):
        if not front or model.score > front[-1].score:
            front.append(model)
    return front[::-1]


def _hardware(record: Record) -> str:
    device = f"{record['threads']} CPU threads" if record["device"] == "cpu" else record["device"]
    return f"{device}, batches of {record['batch']}"


def _draw(axes: Axes, *, models: Sequence[TimedModel], metric: str, hardware: str) -> None:
    front = pareto_front(models)
    axes.plot([m.ms_per_row for m in front], [m.score for m in front], color=GREY, linewidth=5, alpha=0.25, zorder=1)
    for family, (color, marker) in _STYLES.items():
        members = [model for model in models if model.family == family]
        for model in members:
            points = list(model.points.values())
            deviation = stdev(points) if len(points) > 1 else None
            size = 12 if marker == "*" else 6
            alpha = 0.35 if _improves(model, members) else 1.0
            axes.errorbar(
                [model.ms_per_row],
                [model.score],
                yerr=None if deviation is None else [deviation],
                color=color,
                marker=marker,
                markersize=size,
                linestyle="none",
                capsize=2.0,
                elinewidth=0.9,
                alpha=alpha,
                zorder=3,
            )
        if family in ("ours", "shallow"):
            line = pareto_front(members)
            axes.plot([m.ms_per_row for m in line], [m.score for m in line], color=color, linewidth=1.6, zorder=2)
    axes.margins(x=0.12, y=0.14)
    axes.set_xlim(left=0.0)
    axes.set_xlabel(f"ms per row, {hardware} (wide gray line: Pareto front)")
    axes.set_ylabel(f"{metric}, %")


def _improves(model: TimedModel, others: Sequence[TimedModel]) -> bool:
    """Return True if the same model has a better score after a longer training."""

    def name(each: TimedModel) -> tuple[object, ...]:
        return each.policy, each.rho, str(each.layers), each.prune_at, each.saliency

    return any(
        name(other) == name(model) and (other.epochs or 1) > (model.epochs or 1) and other.score > model.score
        for other in others
    )


def _labels(models: Sequence[TimedModel]) -> list[Label]:
    shown = [model for model in models if not _improves(model, models)]
    return [Label(model.ms_per_row, model.score, _text(model), _STYLES[model.family][0]) for model in shown]


def _text(model: TimedModel) -> str:
    layers = model.layers if isinstance(model.layers, int) or model.layers is None else len(model.layers)
    depth = "" if layers is None else "1 layer" if layers == 1 else f"{layers} layers"
    trained = f", {model.epochs} epochs" if model.longer else ""
    if model.family == "dense":
        return "dense"
    if model.family == "shallow":
        return f"{depth}{trained}"
    if depth:
        return f"keep {model.rho:g}, {depth}{trained}"
    name = "ours" if model.family == "ours" else model.policy.replace("_", " ")
    pruned = "" if model.prune_at == PRUNE_AT else f" {model.prune_at.replace('_', ' ')}"
    return f"{name}, keep {model.rho:g}{pruned}{trained}"
