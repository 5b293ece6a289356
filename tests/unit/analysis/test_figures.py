"""Figures from records: what is drawn, and that nothing is drawn where nothing was run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retention.analysis.figures import draw_figure2, draw_figures, flops_clouds, speed_clouds
from retention.analysis.knobs import studies
from retention.analysis.paper import BENCHMARKS
from retention.analysis.sources import Evidence

Make = Callable[..., dict[str, Any]]


def swept(make: Make) -> list[dict[str, Any]]:
    """beta at three values and gamma at two; the default run belongs to both."""
    found = [make("adaptive", 0.3, 0.86)]
    found += [make("adaptive", 0.3, value, retention={"beta": beta}) for beta, value in ((0.3, 0.84), (1.0, 0.85))]
    return [*found, make("adaptive", 0.3, 0.85, retention={"gamma": -0.3})]


def test_runs_that_differ_in_one_knob_make_its_curve(quality_record: Make) -> None:
    records = [*swept(quality_record), quality_record("adaptive", 0.3, 0.5, retention={"beta": 0.3, "gamma": -0.3})]
    [study] = studies(records)
    assert {name: list(curve) for name, curve in study.curves.items()} == {
        "beta": [0.3, 0.66, 1.0],
        "gamma": [-0.3, -0.1],
    }, "a run that turns two knobs belongs to neither curve"


def test_runs_of_a_sweep_stay_out_of_the_tables(quality_record: Make) -> None:
    evidence = Evidence(tuple(swept(quality_record)))
    assert [len(runs) for runs in evidence.runs.values()] == [1]


def test_six_panels_and_what_was_not_run(quality_record: Make, tmp_path: Path) -> None:
    png, svg = draw_figure2(Evidence(tuple(swept(quality_record))), tmp_path)
    text = svg.read_text()
    assert text.count(">not run<") == len(BENCHMARKS) - 1
    assert "SST-2, minilm, rho 0.3" in text and ">beta<" in text and ">zeta<" not in text
    assert png.stat().st_size > 10_000


def test_points_lie_where_the_records_say(quality_record: Make, speed_record: Make) -> None:
    runs = [quality_record("dense", 1.0, 0.9), quality_record("random", 0.3, 0.7)]
    runs += [
        quality_record("adaptive", rho, value, seed) for rho in (0.3, 0.5) for seed, value in ((0, 0.8), (1, 0.82))
    ]
    evidence = Evidence((*runs, speed_record("adaptive", 0.3, 2.2)))
    [cloud] = flops_clouds(evidence.runs)
    assert cloud.dense == 90.0
    assert set(cloud.curves) == {"adaptive", "random"}
    assert [(round(x), round(mean, 1), round(spread, 2)) for x, mean, spread in cloud.curves["adaptive"]] == [
        (60, 81.0, 1.41),
        (40, 81.0, 1.41),
    ]
    [fast] = speed_clouds(evidence)
    assert {name: [(x, round(y)) for x, y, _ in places] for name, places in fast.curves.items()} == {
        "adaptive": [(2.2, 81)]
    }


def test_all_figures_are_written_in_both_forms(quality_record: Make, speed_record: Make, tmp_path: Path) -> None:
    evidence = Evidence((quality_record("adaptive", 0.3, 0.8), speed_record("adaptive", 0.3, 2.2)))
    names = {path.name for path in draw_figures(evidence, tmp_path)}
    stems = ("figure2", "quality_by_flops", "quality_by_speed", "kept_by_depth")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names
