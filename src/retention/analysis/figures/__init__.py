"""Figures from result records, as PNG and SVG."""

from retention.analysis.figures.depth import depth_figure
from retention.analysis.figures.knobs import knob_figure
from retention.analysis.figures.tradeoff import pareto_figure, speed_figure

__all__ = ["depth_figure", "knob_figure", "pareto_figure", "speed_figure"]
