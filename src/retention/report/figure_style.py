"""How all figures look, and how they are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from retention.records import write_atomic

# Okabe and Ito's colours, then four of Paul Tol's "muted": told apart with every kind of colour vision; markers say the
# same once more.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#882255", "#999933", "#44AA99"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
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
    """Colour and marker of the curve with this number."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.svg``, each under a temporary name first."""
    paths = []
    for kind in ("png", "svg"):
        drawn, target = io.BytesIO(), stem.with_suffix(f".{kind}")
        with mpl.rc_context(STYLE):
            undated = {"Date": None} if kind == "svg" else None
            figure.savefig(drawn, format=kind, dpi=160, bbox_inches="tight", metadata=undated)
        write_atomic(target, drawn.getvalue())
        paths.append(target)
    return paths
