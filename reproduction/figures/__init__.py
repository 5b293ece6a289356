"""Draw figures from result records, as PNG and SVG."""

from reproduction.figures.depth import depth_figure
from reproduction.figures.equal_time import equal_time_figure
from reproduction.figures.hyperparameters import hyperparameter_figure
from reproduction.figures.overview import overview_figure
from reproduction.figures.tokens_per_layer import tokens_figure
from reproduction.figures.tradeoff import pareto_figure, speed_figure

__all__ = [
    "depth_figure",
    "equal_time_figure",
    "hyperparameter_figure",
    "overview_figure",
    "pareto_figure",
    "speed_figure",
    "tokens_figure",
]
