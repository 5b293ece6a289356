"""Define the style of all figures and write them to files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from retention.records import write_atomic

# Okabe and Ito's colors, then four of Paul Tol's "muted": distinguishable with every kind of color vision.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#882255", "#999933", "#44AA99"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
LINE_STYLES = ("-", "--", "-.", ":")
INK, GREY, RULE = "#222222", "#6b6b6b", "#e4e4e4"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 3.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "retention",  # the same records give the same file
}


def curve_style(number: int) -> dict[str, Any]:
    """Return color, marker and line style of a curve; the combinations repeat after 200 curves.

    Every further round of colors shifts the markers by one and takes the next line style, so that two curves of the
    same color differ in both.

    Args:
        number: index of the curve in the figure, >= 0.
    """
    round_, color = divmod(number, len(COLORS))
    return {
        "color": COLORS[color],
        "marker": MARKERS[(color + round_) % len(MARKERS)],
        "linestyle": LINE_STYLES[round_ % len(LINE_STYLES)],
    }


def save_figure(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write ``<stem>.<kind>`` for each kind of image; return the paths."""
    paths = []
    for kind in kinds:
        image, target = io.BytesIO(), stem.with_suffix(f".{kind}")
        with mpl.rc_context(STYLE):
            undated = {"Date": None} if kind == "svg" else None
            figure.savefig(image, format=kind, dpi=160, bbox_inches="tight", metadata=undated)
        write_atomic(target, image.getvalue())
        paths.append(target)
    return paths
