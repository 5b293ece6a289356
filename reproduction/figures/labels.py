"""Write labels beside points so that none covers a point, a line or another label."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_POINT = 5.0  # half the width of a mark, in pixels of the canvas
_LINE = 2.0  # half the width of a line, likewise
_ALIGN: dict[int, Literal["left", "center", "right"]] = {1: "left", 0: "center", -1: "right"}
_VERTICAL: dict[int, Literal["bottom", "center", "top"]] = {1: "bottom", 0: "center", -1: "top"}
_DIRECTIONS = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_DISTANCES = (7.0, 13.0, 20.0, 29.0, 40.0)  # points from the middle of the mark


@dataclass(frozen=True)
class Label:
    """Text beside a point, in the coordinates of the data."""

    x: float
    y: float
    text: str
    color: str


def place_labels(axes: Axes, labels: Sequence[Label], **style: Any) -> list[Annotation]:
    """Write each label at the nearest free spot beside its point; a thin line leads to a label that is far off.

    Limits and size of the axes must be final. A label stays inside the axes where that is possible.

    Args:
        axes: a subplot of a figure.
        labels: one per point.
        style: further arguments of ``Axes.annotate``.
    """
    canvas: Any = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [_square(x, y, _POINT) for x, y in points] + _line_boxes(axes)
    written = []
    for label in sorted(labels, key=lambda each: -len(each.text)):  # long ones have the fewest free spots
        options = [_annotate(axes, label, (dx, dy), far, style) for far in _DISTANCES for dx, dy in _DIRECTIONS]
        boxes = [option.get_window_extent(canvas.get_renderer()) for option in options]
        own = axes.transData.transform((label.x, label.y))
        costs = [_cost(box, taken, axes.bbox) + _ambiguity(box, own, points) for box in boxes]
        best = costs.index(min(costs))
        for index, option in enumerate(options):
            if index != best:
                option.remove()
        taken.append(boxes[best])
        written.append(options[best])
    return written


def _square(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _line_boxes(axes: Axes) -> list[Bbox]:
    """Return small boxes along the lines of a subplot, in pixels."""
    boxes = []
    for line in axes.lines:
        vertices = axes.transData.transform(np.asarray(line.get_xydata(), dtype=float))
        for start, end in itertools.pairwise(vertices):
            steps = max(2, int(np.hypot(*(end - start)) / (2 * _LINE)))
            boxes += [_square(x, y, _LINE) for x, y in np.linspace(start, end, steps)]
    return boxes


def _annotate(axes: Axes, label: Label, direction: tuple[int, int], distance: float, style: Any) -> Annotation:
    dx, dy = direction
    scale = distance if 0 in direction else 0.7 * distance
    far = distance > _DISTANCES[1]
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(dx * scale, dy * scale),
        textcoords="offset points",
        ha=_ALIGN[dx],
        va=_VERTICAL[dy],
        color=label.color,
        arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.5} if far else None,
        **style,
    )


def _cost(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """Return the area in pixels that a label would share with others or have outside of the axes."""
    area = box.width * box.height
    shared = sum(_overlap(box, other) for other in taken)
    return shared + (area - _overlap(box, inside))


def _ambiguity(box: Bbox, own: Any, points: Sequence[Any]) -> float:
    """Return the area of a label that is nearer to another point than to its own, 0 for others."""
    nearest = min(_distance(box, point) for point in points)
    return float(box.width * box.height) if nearest < _distance(box, own) else 0.0


def _distance(box: Bbox, point: Any) -> float:
    x, y = point
    return float(np.hypot(max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1)))


def _overlap(first: Bbox, second: Bbox) -> float:
    common = Bbox.intersection(first, second)
    return 0.0 if common is None else float(common.width * common.height)
