"""How all figures look, and how they are written."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every kind of colour vision; markers say the same once more
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 3.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "retention",  # the same records give the same file
}
Shown = TypeVar("Shown")


def mark(number: int) -> dict[str, Any]:
    """Colour and marker of the curve with this number."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def panels_figure(draw: Callable[[Axes, Shown], None], shown: Sequence[Shown], titles: Sequence[str]) -> Figure:
    """One panel per thing shown, three in a row, each with its legend beside it."""
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, each, title in zip(grid, shown, titles, strict=False):
            draw(axes, each)
            axes.set_title(title, loc="left")
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for axes in grid[len(shown) :]:
            axes.remove()
    return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """PNG and SVG, each under a temporary name first, then moved into place."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in ("png", "svg"):
        drawn, target = io.BytesIO(), stem.with_suffix(f".{kind}")
        with mpl.rc_context(STYLE):
            figure.savefig(drawn, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.write_bytes(drawn.getvalue())
        os.replace(temporary, target)
        files.append(target)
    return files
