"""Figures from records."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reproduction.figures import depth_figure, knob_figure, pareto_figure, speed_figure
from reproduction.figures.canvas import spread_out
from reproduction.sources import Evidence
from reproduction.sweep_curves import studies

from retention.report.figure_style import save

Make = Callable[..., dict[str, Any]]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def panels(figure: Figure) -> list[Axes]:
    return figure.axes


def test_figure_2_has_a_panel_per_benchmark_and_says_what_was_not_run(quality: Make) -> None:
    records = [quality("adaptive", 0.3, 0.8, seed, knobs={"beta": beta}) for beta in (0.3, 0.66) for seed in (0, 1)]
    drawn = panels(knob_figure(records))
    assert len(drawn) == 6
    assert words(drawn[0]) == [r"$\beta$"]
    assert [words(axes) for axes in drawn[1:]] == [["not run"]] * 5


def test_a_curve_changes_one_knob_alone(quality: Make) -> None:
    records = [
        quality("adaptive", 0.3, 0.8, 0),
        quality("adaptive", 0.3, 0.7, 0, knobs={"beta": 0.3}),
        quality("adaptive", 0.3, 0.6, 0, knobs={"beta": 0.3, "zeta": 1.5}),  # two knobs at once: on no curve
        quality("adaptive", 0.5, 0.5, 0, knobs={"beta": 1.0}),  # another share: one value is no curve
    ]
    (study,) = studies(records)
    assert list(study.curves) == ["beta"] and list(study.curves["beta"]) == [0.3, 0.66]
    assert study.rho == 0.3


def test_the_pareto_panel_names_every_policy_and_dense(quality: Make) -> None:
    records = [quality("dense", 1.0, 0.9), *(quality("adaptive", rho, 0.8) for rho in (0.5, 0.3))]
    others = (quality("random", 0.3, 0.7), quality("adaptive_joint", 0.3, 0.8))  # the latter is an ablation
    (axes,) = panels(pareto_figure(Evidence((*records, *others)).runs))
    assert sorted(words(axes)) == ["adaptive", "dense", "random"]


def test_quality_against_speed_needs_a_measurement_that_fits(quality: Make, speed: Make) -> None:
    runs = Evidence((quality("dense", 1.0, 0.9), quality("adaptive", 0.3, 0.8))).runs
    (fits,) = panels(speed_figure(runs, [speed("adaptive", 0.3, 2.0)]))
    (other,) = panels(speed_figure(runs, [speed("adaptive", 0.3, 2.0, length=512)]))
    assert "adaptive" in words(fits) and words(other) == ["not run"]


def test_policies_with_one_schedule_are_one_curve(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.9), quality("random", 0.3, 0.7), quality("adaptive", 0.5, 0.9))
    (axes,) = panels(depth_figure(Evidence(records).runs))
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["0.3 paper", "0.5 paper", "0.5 adaptive", "0.3 adaptive, random"]


@pytest.mark.parametrize("tall", [[0.1, 0.1, 0.1], [0.1, 0.3, 0.1]])
@pytest.mark.parametrize("heights", [[0.5, 0.5, 0.5], [0.0, 0.01, 0.02], [0.99, 1.0, 1.0], [0.1, 0.5, 0.9]])
def test_labels_keep_their_distance_and_stay_inside(heights: list[float], tall: list[float]) -> None:
    moved = spread_out(heights, tall)
    least = [(under + over) / 2 for under, over in itertools.pairwise(tall)]
    apart = [high - low for low, high in itertools.pairwise(moved)]
    assert all(found >= needed - 1e-9 for found, needed in zip(apart, least, strict=True))
    assert min(moved) >= -1e-9 and max(moved) <= 1.0 + 1e-9
    wanted = [high - low for low, high in itertools.pairwise(heights)]
    crowded = any(want < needed for want, needed in zip(wanted, least, strict=True))
    assert crowded or moved == pytest.approx(heights)


def test_the_same_records_give_the_same_files(tmp_path: Path, quality: Make) -> None:
    runs = Evidence((quality("dense", 1.0, 0.9), quality("adaptive", 0.3, 0.8))).runs
    one, two = save(pareto_figure(runs), tmp_path / "a"), save(pareto_figure(runs), tmp_path / "b")
    assert [path.suffix for path in one] == [".png", ".svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
