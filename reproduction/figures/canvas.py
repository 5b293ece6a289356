"""What figures of results share: a grid of panels, and labels beside their curves."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.data_provenance import rows_mark
from reproduction.runs import NOT_RUN, Column
from retention.report.figure_style import GREY, RULE, STYLE

# Inches of a panel, and of its margins; the one to the right holds labels. Fixed, so that all panels are the same size.
_WIDTH, _HEIGHT = 3.7, 2.6
_LEFT, _RIGHT, _BELOW, _ABOVE = 0.75, 1.75, 0.6, 0.55
_LINE = 0.07  # height of a line of labels, as a share of the panel's
_LETTERS = 26  # of a label's line


@dataclass(frozen=True)
class Panel:
    """One part of a figure; ``draw`` None = nothing was run."""

    title: str
    draw: Callable[[Axes], None] | None = None


@dataclass(frozen=True)
class Label:
    """A curve's name and the point that a thin line leads to, in data units."""

    x: float
    y: float
    text: str
    color: str


def draw_panels(panels: Sequence[Panel], columns: int = 2, side: float = _RIGHT) -> Figure:
    """The panels in rows, in order; ``side`` is the room to the right of each, in inches."""
    across = min(columns, max(1, len(panels)))
    down = max(1, math.ceil(len(panels) / across))
    wide, high = (_LEFT + _WIDTH + side) * across, (_BELOW + _HEIGHT + _ABOVE) * down
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(wide, high))
        for number, panel in enumerate(panels):
            row, column = divmod(number, across)
            left = (_LEFT + _WIDTH + side) * column + _LEFT
            bottom = (_BELOW + _HEIGHT + _ABOVE) * (down - 1 - row) + _BELOW
            axes = figure.add_axes((left / wide, bottom / high, _WIDTH / wide, _HEIGHT / high))
            axes.set_title(panel.title)
            if panel.draw is None:
                _leave_empty(axes)
            else:
                panel.draw(axes)
    return figure


def label_at_side(axes: Axes, labels: Sequence[Label]) -> None:
    """Names to the right of the panel, each level with its point or as near as the others leave room.

    Call it last: it fixes the limits of the panel.
    """
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    low, high = axes.get_ylim()
    ordered = sorted(labels, key=lambda label: label.y)
    texts = [textwrap.fill(label.text, _LETTERS) for label in ordered]
    tall = [_LINE * (text.count("\n") + 1) for text in texts]
    heights = spread_out([(label.y - low) / (high - low) for label in ordered], tall)
    for label, text, height in zip(ordered, texts, heights, strict=True):
        axes.annotate(
            text,
            xy=(label.x, label.y),
            xycoords="data",
            xytext=(1.05, height),
            textcoords="axes fraction",
            color=label.color,
            va="center",
            ha="left",
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "linewidth": 0.7,
                "alpha": 0.6,
                "relpos": (0.0, 0.5),
                "shrinkA": 1.0,
                "shrinkB": 4.0,
            },
            annotation_clip=False,
        )


def spread_out(heights: Sequence[float], tall: Sequence[float]) -> list[float]:
    """Ascending heights moved apart by what their labels need, as little as goes, within [0, 1] where they fit.

    Args:
        heights: wanted middles of the labels, at least one.
        tall: height of each label.
    """
    steps = [(under + over) / 2 for under, over in itertools.pairwise(tall)]
    offsets = list(itertools.accumulate(steps, initial=0.0))  # of each middle, where all labels are stacked
    blocks: list[tuple[float, int]] = []  # where the stack would start for labels that touch, and how many they are
    for wanted, offset in zip(heights, offsets, strict=True):
        start, count = wanted - offset, 1
        while blocks and blocks[-1][0] > start:
            other, more = blocks.pop()
            start, count = (count * start + more * other) / (count + more), count + more
        blocks.append((start, count))
    starts = (max(0.0, min(start, 1.0 - offsets[-1])) for start, count in blocks for _ in range(count))
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]


def column_title(column: Column) -> str:
    """Task and encoder, and a warning where the rows are not all of the benchmark's."""
    return f"{column.task}, {column.backbone}{rows_mark(column)}"


def _leave_empty(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
    axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", va="center", color=GREY)
