"""Lay out subplots of equal size, with a legend beside each."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.data_provenance import title_mark
from retention.report.figure_style import GREY, RULE, STYLE
from retention.report.grouping import NOT_RUN, EvaluationSetup

_SIZE = (5.6, 3.4)  # inches of a subplot with its margins
_LINE_LENGTH = 30  # characters of a line in a legend


@dataclass(frozen=True)
class Subplot:
    """A part of a figure; ``draw`` None means that nothing was run."""

    title: str
    draw: Callable[[Axes], None] | None = None


def draw_subplots(subplots: Sequence[Subplot], columns: int = 2) -> Figure:
    """Draw subplots row by row."""
    across = min(columns, max(1, len(subplots)))
    down = max(1, math.ceil(len(subplots) / across))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_SIZE[0] * across, _SIZE[1] * down), layout="constrained")
        for number, subplot in enumerate(subplots, start=1):
            axes = figure.add_subplot(down, across, number)
            axes.set_title(subplot.title)
            if subplot.draw is None:
                _leave_empty(axes)
            else:
                subplot.draw(axes)
    return figure


def add_legend(axes: Axes) -> None:
    """Write a legend to the right of a subplot: many curves would hide names beside them."""
    handles, labels = axes.get_legend_handles_labels()
    wrapped = [textwrap.fill(label, _LINE_LENGTH) for label in labels]
    style: dict[str, Any] = {"fontsize": 8.0 if len(labels) <= 12 else 6.0, "ncols": 1 if len(labels) <= 24 else 2}
    axes.legend(handles, wrapped, loc="upper left", bbox_to_anchor=(1.01, 1.02), handlelength=2.2, **style)


def setup_title(setup: EvaluationSetup) -> str:
    """Return task and encoder, with a warning where the data is not the whole benchmark."""
    return f"{setup.task}, {setup.backbone}{title_mark(setup)}"


def _leave_empty(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
    axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", va="center", color=GREY)
