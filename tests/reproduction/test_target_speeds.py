"""Best models at a required speed, their differences and their figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from reproduction.comparison_family import comparison_family_table
from reproduction.figures.equal_time import equal_time_figure, pareto_front
from reproduction.figures.labels import Label, place_labels
from reproduction.sources import RecordSet
from reproduction.target_speeds import level_speed_table, speed_summary_table, target_speed_table
from reproduction.timed_models import paired_difference, timed_models

from retention.errors import DataError

SCORES = {"dense": (0.90, 0.92), "fewer_layers": (0.80, 0.84), "adaptive": (0.86, 0.88), "random": (0.70, 0.72)}
SPEEDUPS = {"dense": 1.0, "fewer_layers": 2.5, "adaptive": 3.0, "random": 3.1}


def entry(policy: str, speedup: float | None = None, **changes: Any) -> dict[str, Any]:
    """Return a model of a latency record: seed 0 of ``SCORES``."""
    speedup = SPEEDUPS[policy] if speedup is None else speedup
    times = {"median": 10.0 / speedup, "low": 0.0, "high": 9.0}
    fixed = {"policy": policy, "rho": 0.3 if policy in ("adaptive", "random") else 1.0, "seed": 0, "saliency": 0.0}
    fixed |= {"layers": 2 if policy == "fewer_layers" else None, "metric": SCORES[policy][0], "monitor": "accuracy"}
    return {**fixed, "flops_ratio": 0.5, "ms_per_row": times, "speedup": times | {"median": speedup}, **changes}


@pytest.fixture
def record_set(quality: Callable[..., dict[str, Any]]) -> Callable[..., RecordSet]:
    """``record_set(*more)``: two seeds of four models, timed, and further records."""

    def make(*more: dict[str, Any]) -> RecordSet:
        records = []
        for policy, scores in SCORES.items():
            for seed, score in enumerate(scores):
                record = quality(policy, entry(policy)["rho"], score, seed)
                record["config"]["backbone"] = {"layers": entry(policy)["layers"]}
                records.append(record)
        hardware = {"device": "cpu", "threads": 2, "batch": 16, "date": "2026-01-01"}
        models = [entry(policy) for policy in SCORES]
        latency = {"kind": "latency", "task": "sst2", "models": models, **hardware}
        return RecordSet((*records, latency, *more))

    return make


def paired(first: dict[str, Any], second: dict[str, Any], mean: float, seeds: Any = 0) -> dict[str, Any]:
    ends = {"low": mean - 0.5, "high": mean + 0.5, "bootstrap_low": mean - 0.01, "bootstrap_high": mean + 0.02}
    sides = {"first": {**first, "seed": seeds}, "second": {**second, "seed": seeds}}
    return {"kind": "paired", "task": "sst2", "rows": 100, "difference": {"mean": mean, **ends}, **sides}


def side(policy: str, score: float, **changes: Any) -> dict[str, Any]:
    return {"policy": policy, "rho": entry(policy)["rho"], "score": score, **changes}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_all_seeds_of_a_timed_model_are_found(record_set: Any) -> None:
    models = timed_models(record_set(), "sst2")
    assert [model.family for model in models] == ["dense", "shallow", "ours", "baseline"]
    assert models[2].points == {0: pytest.approx(86.0), 1: pytest.approx(88.0)}
    assert models[1].label == "fewer layers, 2 layers" and models[2].label == "adaptive, rho 0.3"


def test_a_model_that_is_fast_enough_is_shown(record_set: Any) -> None:
    rows = cells(target_speed_table(record_set(), "sst2", (1.0, 2.5, 2.9, 4.0)))
    assert [row[1] for row in rows] == ["adaptive, rho 0.3"] * 3 + ["none that fast"]
    assert [row[4] for row in rows] == ["fewer layers, 2 layers"] * 2 + ["none that fast"] * 2
    assert rows[0][2] == "87.0 ± 1.4 (2 seeds)" and rows[0][-1].startswith("+5.0 [")
    assert rows[2][-1] == "-"
    assert cells(target_speed_table(record_set(), "sst2", (2.62,)))[0][4] == "fewer layers, 2 layers", "within 5 %"
    assert cells(target_speed_table(record_set(), "sst2", (2.65,)))[0][4] == "none that fast"


def test_no_test_score_decides_which_model_is_shown(record_set: Any, quality: Callable[..., dict[str, Any]]) -> None:
    def shown(score: float, rho: float, speedup: float, **changes: Any) -> str:
        other = quality("adaptive", rho, score, 0)
        other["config"] |= {"backbone": {"layers": None}, "trainer": {"max_epochs": changes.get("epochs", 1)}}
        records = record_set(other)
        [latency] = [record for record in records.records if record["kind"] == "latency"]
        latency["models"].append(entry("adaptive", speedup, rho=rho, metric=score, **changes))
        return cells(target_speed_table(records, "sst2", (2.0,)))[0][1]

    for score in (0.5, 0.99):
        assert shown(score, 0.2, 3.5) == "adaptive, rho 0.3", "has more seeds"
        assert shown(score, 0.2, 3.5, epochs=4) == "adaptive, 4 epochs, rho 0.2", "trained longer"


def test_the_summary_has_one_row_per_speed_that_is_reached(record_set: Any) -> None:
    rows = cells(speed_summary_table(record_set(), {"sst2": ("SST-2", "accuracy")}, (2.5, 2.9, 4.0)))
    shown = ["SST-2, accuracy", "91.0", "2.5 times", "87.0 at 3.00x", "82.0 at 2.50x"]
    assert rows[0][:5] == shown and rows[0][5].startswith("+5.0 [")
    assert rows[1][:2] == ["", ""] and rows[1][3:] == ["the same", "none that fast", "-"]
    assert len(rows) == 2


def test_all_comparisons_are_corrected_for_their_number(record_set: Any) -> None:
    rows = cells(comparison_family_table(record_set(), {"sst2": ("SST-2", "accuracy")}, (1.0, 2.5, 4.0)))
    assert [row[:2] for row in rows] == [["SST-2", "1x"], ["SST-2", "2.5x"]], "no student is four times as fast"
    assert [float(row[4]) for row in rows] == [pytest.approx(2 * float(row[3]), abs=0.002) for row in rows]


def test_level_speed_compares_with_models_that_are_not_worse(record_set: Any) -> None:
    worse = paired(side("adaptive", 0.87), side("dense", 0.91), -0.04, [0, 1])
    rows = cells(level_speed_table(record_set(worse), "sst2"))
    level = paired(side("adaptive", 0.87), side("dense", 0.91), -0.015, [0, 1])
    assert cells(level_speed_table(record_set(level), "sst2"))[0][2] == "adaptive, rho 0.3", "its interval reaches 0"
    assert rows[0][2] == "none" and rows[1][2:5] == ["adaptive, rho 0.3", "87.0 ± 1.4 (2 seeds)", "1.20x"]


def test_level_needs_a_comparison_row_by_row(record_set: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "adaptive", (0.80, 0.93))
    records = record_set()
    dense, _, ours, _ = timed_models(records, "sst2")
    difference = paired_difference(records, "sst2", ours, dense)
    assert difference is not None and difference.high is not None and difference.high > 0, "two seeds tell little"
    assert cells(level_speed_table(records, "sst2"))[0][2] == "none"


def test_longer_trainings_are_told_apart_and_named(record_set: Any, quality: Callable[..., dict[str, Any]]) -> None:
    longer = quality("fewer_layers", 1.0, 0.85, 0)
    longer["config"] = {"backbone": {"layers": 2}, "trainer": {"max_epochs": 4}}
    records = record_set(longer)
    [latency] = [record for record in records.records if record["kind"] == "latency"]
    latency["models"][1]["epochs"] = 1
    latency["models"].append(entry("fewer_layers", 2.6, metric=0.85, epochs=4))
    _, once, four_times, ours, _ = timed_models(records, "sst2")
    assert four_times.label == "fewer layers, 4 epochs, 2 layers" and once.label == "fewer layers, 2 layers"
    side_of = {"layers": 2, "saliency": 0.0, "lr": None, "epochs": 4}
    first = side("adaptive", 0.86, layers=None, saliency=0.0, lr=None, epochs=None)
    compared = record_set(longer, paired(first, side("fewer_layers", 0.85, **side_of), 0.2))
    difference = paired_difference(compared, "sst2", ours, four_times)
    assert difference is not None and difference.mean == pytest.approx(20.0)
    assert paired_difference(compared, "sst2", ours, once) != difference


def test_a_longer_training_does_not_count_for_a_model_timed_without_its_epochs(
    record_set: Any, quality: Callable[..., dict[str, Any]]
) -> None:
    once = quality("adaptive", 0.3, 0.865, 7)
    once["config"] |= {"backbone": {"layers": None}, "trainer": {"max_epochs": 1}}
    side_of = {"layers": None, "saliency": 0.0, "lr": None, "epochs": 4}
    records = record_set(once, paired(side("adaptive", 0.86, **side_of), side("dense", 0.90), 0.2, 7))
    [latency] = [record for record in records.records if record["kind"] == "latency"]
    latency["models"] = [latency["models"][0], entry("adaptive", seed=7, metric=0.865)]
    dense, ours = timed_models(records, "sst2")
    assert (ours.epochs, ours.longer) == (1, False)
    assert paired_difference(records, "sst2", ours, dense) is None


def test_the_paired_record_with_most_seeds_decides_in_either_direction(record_set: Any) -> None:
    one = paired(side("adaptive", 0.86), side("fewer_layers", 0.80), 0.06)
    two = paired(side("fewer_layers", 0.82), side("adaptive", 0.87), -0.05, [0, 1])
    records = record_set(two, one)
    _, shallow, ours, _ = timed_models(records, "sst2")
    difference = paired_difference(records, "sst2", ours, shallow)
    assert difference is not None and difference.mean == pytest.approx(5.0)
    assert (difference.low, difference.high) == (pytest.approx(3.0), pytest.approx(6.0))


def test_paired_records_of_other_layers_do_not_count(record_set: Any) -> None:
    sides = side("adaptive", 0.87, layers=None, saliency=0.0), side("fewer_layers", 0.82, layers=3, saliency=0.0)
    by_score = side("adaptive", 0.87), side("fewer_layers", 0.75)
    records = record_set(paired(*sides, 0.4, [0, 1]), paired(*by_score, 0.4, [0, 1]))
    _, shallow, ours, _ = timed_models(records, "sst2")
    difference = paired_difference(records, "sst2", ours, shallow)
    assert difference is not None and difference.mean == pytest.approx(5.0), "the seeds decide"
    rate: dict[str, Any] = {"saliency": 0.0, "lr": None}
    same = side("adaptive", 0.5, layers=None, **rate), side("fewer_layers", 0.1, layers=2, **rate)
    difference = paired_difference(record_set(paired(*same, 0.4, [0, 1])), "sst2", ours, shallow)
    assert difference is not None and difference.mean == pytest.approx(40.0)


def test_models_that_prune_elsewhere_are_told_apart(record_set: Any, quality: Callable[..., dict[str, Any]]) -> None:
    run = quality("adaptive", 0.3, 0.85, 0)
    run["config"] = {"backbone": {"layers": None}, "prune_at": "after_attention"}
    records = record_set(run)
    [latency] = [record for record in records.records if record["kind"] == "latency"]
    latency["models"].append(entry("adaptive", 3.5, metric=0.85, prune_at="after_attention"))
    *_, ours, _, other = timed_models(records, "sst2")
    assert (ours.prune_at, ours.points[0]) == ("after_layer", pytest.approx(86.0))
    assert (other.label, other.points) == ("adaptive, pruned after attention, rho 0.3", {0: pytest.approx(85.0)})
    same = {"layers": None, "saliency": 0.0, "lr": None}
    sides = side("adaptive", 0.85, prune_at="after_attention", **same), side("dense", 0.90, **same)
    difference = paired_difference(
        record_set(run, paired(*sides, -0.3)), "sst2", other, timed_models(records, "sst2")[0]
    )
    assert difference is not None and difference.mean == pytest.approx(-30.0)
    assert (
        paired_difference(record_set(run, paired(*sides, -0.3)), "sst2", ours, timed_models(records, "sst2")[0])
        != difference
    )


def test_a_timed_model_that_was_not_tested_has_the_scores_of_its_settings(
    record_set: Any, quality: Callable[..., dict[str, Any]]
) -> None:
    tested = quality("adaptive", 0.1, 0.75, 4)
    tested["config"]["backbone"] = {"layers": None}
    elsewhere = {**quality("adaptive", 0.1, 0.95, 5), "data": {**tested["data"], "test": 7}}
    records = record_set(tested, elsewhere)
    [latency] = [record for record in records.records if record["kind"] == "latency"]
    latency["models"].append(entry("adaptive", 4.0, rho=0.1, seed=0, metric=None))
    assert timed_models(records, "sst2")[-1].points == {4: pytest.approx(75.0)}
    latency["models"].append(entry("adaptive", 5.0, rho=0.2, metric=None))
    with pytest.raises(DataError, match="no run like it was tested"):
        timed_models(records, "sst2")


def test_models_of_other_learning_rates_are_told_apart(record_set: Any, quality: Callable[..., dict[str, Any]]) -> None:
    faster = quality("fewer_layers", 1.0, 0.89, 0)
    faster["config"] = {"backbone": {"layers": 2}, "task": {"lr": 4e-4}}
    sides = side("adaptive", 0.86, layers=None, saliency=0.0, lr=None), side("fewer_layers", 0.5, lr=4e-4)
    sides[1].update(layers=2, saliency=0.0)
    records = record_set(faster, paired(*sides, -0.03))
    [latency] = [record for record in records.records if record["kind"] == "latency"]
    latency["models"].append(entry("fewer_layers", 2.6, metric=0.89, lr=4e-4))
    _, slow, fast, ours, _ = timed_models(records, "sst2")
    assert (slow.lr, fast.lr, fast.points) == (None, 4e-4, {0: pytest.approx(89.0)})
    difference = paired_difference(records, "sst2", ours, fast)
    assert difference is not None and difference.mean == pytest.approx(-3.0)
    assert paired_difference(records, "sst2", ours, slow) != difference


def test_pareto_front_has_no_dominated_model(record_set: Any) -> None:
    front = pareto_front(timed_models(record_set(), "sst2"))
    assert [model.policy for model in front] == ["dense", "adaptive", "random"]


def test_a_model_that_longer_training_improves_has_no_label(record_set: Any) -> None:
    records = record_set()
    [latency] = [record for record in records.records if record["kind"] == "latency"]
    latency["models"].append(entry("fewer_layers", 2.6, metric=0.95, epochs=4))
    texts = [text.get_text() for text in equal_time_figure(records).axes[0].texts]
    assert "2 layers, 4 epochs" in texts and "2 layers" not in texts
    latency["models"][-1]["metric"] = 0.5
    assert "2 layers" in [text.get_text() for text in equal_time_figure(records).axes[0].texts]


def test_labels_of_the_figure_do_not_overlap(record_set: Any) -> None:
    figure = equal_time_figure(record_set())
    [axes] = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == ["2 layers", "dense", "ours, keep 0.3", "random, keep 0.3"]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_labels_move_away_from_each_other() -> None:
    axes = Figure(figsize=(4, 3)).add_subplot()
    axes.plot([0, 1], [0, 1], alpha=0.0)
    labels = [Label(0.5, 0.5 + 0.01 * number, f"label {number}", "k") for number in range(4)]
    texts = place_labels(axes, labels, fontsize=8)
    renderer = FigureCanvasAgg(axes.figure).get_renderer()  # type: ignore[arg-type]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])
    fixed = [axes.annotate(each.text, (each.x, each.y), xytext=(7, 0), textcoords="offset points") for each in labels]
    beside = [text.get_window_extent(renderer) for text in fixed]
    assert any(a.overlaps(b) for index, a in enumerate(beside) for b in beside[:index]), "side by side they do"
