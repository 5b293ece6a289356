"""Figures from records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reproduction.data_provenance import data_note
from reproduction.figures import depth_figure, hyperparameter_figure, pareto_figure, speed_figure
from reproduction.sources import RecordSet
from reproduction.sweep_curves import find_sweeps

from retention.report.figure_style import save_figure

Make = Callable[..., dict[str, Any]]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    return [] if box is None else [text.get_text() for text in box.get_texts()]


def panels(figure: Figure) -> list[Axes]:
    return figure.axes


def test_figure_2_has_a_subplot_per_benchmark(quality: Make) -> None:
    records = [
        quality("adaptive", 0.3, 0.8, seed, hyperparameters={"beta": beta}) for beta in (0.3, 0.66) for seed in (0, 1)
    ]
    others = [quality("dense", 1.0, 0.8, task=task) for task in ("imdb", "arxiv", "qasper", "pubmed", "cuad")]
    drawn = panels(hyperparameter_figure([*records, *others]))
    assert len(drawn) == 6
    assert legend(drawn[0]) == [r"$\beta$"]
    assert [words(axes) for axes in drawn[1:]] == [["not run"]] * 5
    assert len(panels(hyperparameter_figure(records))) == 1, "records of one task make a figure of that task"


def test_curve_changes_one_hyperparameter(quality: Make) -> None:
    records = [
        quality("adaptive", 0.3, 0.8, 0),
        quality("adaptive", 0.3, 0.7, 0, hyperparameters={"beta": 0.3}),
        quality("adaptive", 0.3, 0.6, 0, hyperparameters={"beta": 0.3, "zeta": 1.5}),  # two at once: on no curve
        quality("adaptive", 0.5, 0.5, 0, hyperparameters={"beta": 1.0}),  # another keep ratio: one value is no curve
    ]
    (sweep,) = find_sweeps(records)
    assert list(sweep.curves) == ["beta"] and list(sweep.curves["beta"]) == [0.3, 0.66]
    assert sweep.rho == 0.3


def test_validation_rows_make_curves_of_their_own(quality: Make) -> None:
    tested = [quality("adaptive", 0.3, 0.8, hyperparameters={"beta": beta}) for beta in (0.3, 0.66)]
    data = {**tested[0]["data"], "val": 500}
    validated = [{**record, "kind": "validation", "data": data} for record in tested]
    sweeps = find_sweeps([*validated, *tested])
    assert sorted(sweep.setup.evaluated for sweep in sweeps) == ["test", "validation"]
    assert all(list(sweep.curves["beta"]) == [0.3, 0.66] for sweep in sweeps)
    assert data_note(find_sweeps(validated)[0].setup).endswith(
        "67349 training and 500 validation rows, cut to 64 tokens"
    )
    assert len(panels(hyperparameter_figure(validated))) == 1


def test_pareto_subplot_names_every_policy_and_dense(quality: Make) -> None:
    records = [quality("dense", 1.0, 0.9), *(quality("adaptive", rho, 0.8) for rho in (0.5, 0.3))]
    others = (quality("random", 0.3, 0.7), quality("adaptive_joint", 0.3, 0.8))  # the latter is an ablation
    (axes,) = panels(pareto_figure(RecordSet((*records, *others)).runs))
    assert sorted(legend(axes)) == ["adaptive", "dense", "random"]


def test_speed_figure_needs_a_matching_measurement(quality: Make, speed: Make) -> None:
    runs = RecordSet((quality("dense", 1.0, 0.9), quality("adaptive", 0.3, 0.8))).runs
    (matching,) = panels(speed_figure(runs, [speed("adaptive", 0.3, 2.0)]))
    (other,) = panels(speed_figure(runs, [speed("adaptive", 0.3, 2.0, length=512)]))
    assert "adaptive" in legend(matching) and words(other) == ["not run"]


def test_policies_with_one_schedule_share_a_curve(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.9), quality("random", 0.3, 0.7), quality("adaptive", 0.5, 0.9))
    (axes,) = panels(depth_figure(RecordSet(records).runs))
    assert legend(axes) == ["0.3 paper", "0.5 paper", "0.5 adaptive", "0.3 adaptive, random"]


def test_equal_records_give_equal_files(tmp_path: Path, quality: Make) -> None:
    runs = RecordSet((quality("dense", 1.0, 0.9), quality("adaptive", 0.3, 0.8))).runs
    one, two = save_figure(pareto_figure(runs), tmp_path / "a"), save_figure(pareto_figure(runs), tmp_path / "b")
    assert [path.suffix for path in one] == [".png", ".svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
