"""Tables of the paper, the leaderboard, and how they are written, on figures worked out by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.analysis.cost_report import cost_report, memory_change
from retention.analysis.depth_report import depth_report
from retention.analysis.intervals import estimate
from retention.analysis.leaderboard import leaderboard
from retention.analysis.paper import BENCHMARKS, reported
from retention.analysis.quality_report import ablation_report, quality_report
from retention.analysis.runs import sort_runs
from retention.analysis.sheet import Report, Section, latex, markdown, write_report
from retention.errors import DataError

Make = Callable[..., dict[str, Any]]


def rows(report: Report, start: str) -> list[dict[str, str]]:
    """The rows of the one section whose caption begins so, by column."""
    [section] = [section for section in report.sections if section.caption.startswith(start)]
    return [dict(zip(section.header, row, strict=True)) for row in section.rows]


def named(found: list[dict[str, str]], method: str) -> dict[str, str]:
    [row] = [row for row in found if row[next(iter(row))] == method]
    return row


@pytest.mark.parametrize(
    ("method", "rho", "task", "metric", "value"),
    [
        ("Adaptive Retention", 0.5, "qasper", "F1", 65.0),
        ("Adaptive Retention", 0.3, "sst2", "accuracy", 89.2),
        ("Random pruning", 0.3, "cuad", "macro-F1", 77.0),
        ("BigBird", 0.5, "pubmed", "ROUGE-L", 21.0),
        ("threshold pruning", 0.3, "arxiv", "accuracy", 75.6),
        ("fixed lambda", 0.5, "cuad", "micro-F1", 84.5),
        ("Adaptive Retention", 0.2, "sst2", "accuracy", None),
    ],
)
def test_what_the_paper_reports(method: str, rho: float, task: str, metric: str, value: float | None) -> None:
    assert reported(method, rho, task, metric) == value


def test_ours_stand_beside_the_papers_and_beside_dense(quality_record: Make) -> None:
    records = [quality_record("dense", 1.0, value, seed) for seed, value in enumerate((0.90, 0.92))]
    records += [quality_record("adaptive", 0.3, value, seed) for seed, value in enumerate((0.87, 0.90))]
    found = rows(quality_report(sort_runs(records), 0.3), "SST-2, accuracy")
    own = named(found, "Adaptive Retention")
    assert (own["paper"], own["paper vs full"], own["paper share"]) == ("89.2", "-1.6", "98.2 %")
    assert (own["ours"], own["seeds"], own["ours - paper"]) == ("88.5 ± 2.1", "2 of 3", "-0.7")
    assert own["vs own dense"] == "-2.5", "seed by seed: -3 and -2"
    assert own["95 %"] == "[-8.9, +3.9]", "12.706 * 0.7071 / sqrt(2) = 6.35"
    assert own["share"] == "97.2 %"
    assert named(found, "H2O")["ours"] == "not run"
    assert named(found, "Full Transformer")["vs own dense"] == "-"


def test_every_benchmark_has_its_table_and_no_invented_cell(quality_record: Make) -> None:
    report = quality_report(sort_runs([quality_record("dense", 1.0, 0.9)]), 0.5)
    assert report.overview is not None
    assert len(report.sections) == sum(len(benchmark.metrics) for benchmark in BENCHMARKS)
    for start in ("IMDb", "QASPER, F1", "CUAD, macro-F1"):
        assert {row["ours"] for row in rows(report, start)} == {"not run"}


def test_a_stand_in_is_called_one(quality_record: Make) -> None:
    data = {"source": "NeurIPS papers, a stand-in for arXiv", "train": 600, "test": 99}
    record = quality_record("adaptive", 0.5, 0.8, task="arxiv", data=data)
    [section] = [s for s in quality_report(sort_runs([record]), 0.5).sections if s.caption.startswith("ArXiv")]
    assert "STAND-IN" in section.caption
    assert (
        section.notes[0]
        == "STAND-IN, no benchmark result: NeurIPS papers, a stand-in for arXiv, 600 training and 99 test rows"
    )


def test_ablations_stand_beside_the_full_method(quality_record: Make) -> None:
    records = [quality_record("adaptive", 0.3, 0.88), quality_record("threshold", 0.3, 0.84)]
    found = [row for row in rows(ablation_report(sort_runs(records)), "SST-2") if row["rho"] == "0.3"]
    row = named(found, "threshold pruning")
    assert (row["paper vs full method"], row["vs own full method"]) == ("-3.7", "-4.0")


def test_cost_beside_the_fastest_dense(speed_record: Make) -> None:
    report = cost_report([speed_record("adaptive", 0.3, 2.2), speed_record("adaptive", 0.5, 1.5)])
    assert len(report.sections) == 1
    own = named(rows(report, "inference"), "Adaptive Retention")
    assert (own["ours ms/batch"], own["ours speed-up"], own["ours - paper"]) == ("50.0", "2.20x (2.10-2.30)", "+0.40")
    assert named(rows(report, "inference"), "threshold pruning")["ours ms/batch"] == "not run"
    assert named(rows(report, "inference"), "Full Transformer")["ours ms/batch"] == "100.0"


def test_memory_with_and_without_what_removal_cannot_save(speed_record: Make) -> None:
    record = speed_record("adaptive", 0.3, 2.2)
    assert memory_change(record) == pytest.approx(-0.4)
    assert memory_change(record, without_rest=True) == pytest.approx(-0.8)
    assert memory_change(speed_record("adaptive", 0.3, 2.2, peak_mib=None)) is None


def test_kept_shares_by_layer(quality_record: Make) -> None:
    records = [quality_record("adaptive", 0.3, 0.9, seed) for seed in range(2)]
    found = rows(depth_report(sort_runs(records), 5), "minilm")
    paper, ours, gap = [row for row in found if row["rho"] == "0.3"]
    assert (paper["layer 1"], paper["layer 6"]) == ("45.2", "38.5")
    assert (ours["seeds"], ours["mean"], ours["layer 1"], ours["layer 2"], ours["layer 3"]) == (
        "2",
        "30.0",
        "45.0",
        "15.0",
        "-",
    )
    assert (gap["layer 1"], gap["layer 2"]) == ("-0.2", "-28.9")
    assert [row["seeds"] for row in found if row["rho"] == "0.5"] == ["-", "not run"]


def test_the_leaderboard_ranks_within_a_budget_and_finds_speeds(quality_record: Make, speed_record: Make) -> None:
    records = [
        quality_record("dense", 1.0, 0.9),
        quality_record("random", 0.3, 0.8),
        quality_record("adaptive", 0.3, 0.85),
        quality_record("adaptive", 0.5, 0.70),
    ]
    report = leaderboard(sort_runs(records), [speed_record("adaptive", 0.3, 2.2)])
    found = rows(report, "sst2, accuracy, minilm")
    assert [(row["policy"], row["rho"], row["rank"]) for row in found] == [
        ("dense", "1", "-"),
        ("adaptive", "0.5", "1"),
        ("adaptive", "0.3", "1"),
        ("random", "0.3", "2"),
    ]
    assert [row["measured speed-up"] for row in found] == [
        "-",
        "not measured",
        "2.20x (2.10-2.30) on cpu, batch 32",
        "not measured",
    ]
    assert found[3]["vs dense"] == "-10.0" and found[3]["share of dense"] == "88.9 %"


def test_a_speed_of_other_settings_is_not_taken(quality_record: Make, speed_record: Make) -> None:
    cells = sort_runs([quality_record("adaptive", 0.3, 0.85)])
    for changes in ({"place": "after_attention"}, {"length": 128}, {"phase": "train"}):
        report = leaderboard(cells, [speed_record("adaptive", 0.3, 2.2, **changes)])
        assert report.sections[0].rows[0][-1] == "not measured", changes


def test_files_hold_the_same_rows(tmp_path: Path) -> None:
    section = Section("a & b", ("method", "x_1"), (("50 % | more", "1.0 ± 0.1"),), ("a note",))
    report = Report("t", "Title", ("How to read.",), (section,))
    paths = write_report(report, tmp_path)
    assert [path.name for path in paths] == ["t.md", "t.csv", "t.tex"]
    assert "| 50 % \\| more | 1.0 ± 0.1 |" in markdown(report) and "- a note" in markdown(report)
    assert list(csv.reader(paths[1].open())) == [
        ["table", "method", "x_1", "notes"],
        ["a & b", "50 % | more", "1.0 ± 0.1", "a note"],
    ]
    assert r"50 \% | more & 1.0 $\pm$ 0.1 \\" in latex(report) and r"a \& b" in latex(report)


def test_intervals_are_students() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.high == pytest.approx(2.0 + 4.303 / 3**0.5, rel=1e-6)
    assert found.above(-1.0) and not found.above(0.0) and found.below(5.0)
    alone = estimate([1.0])
    assert (alone.low, alone.high) == (None, None) and not alone.above(0.0) and not alone.below(9.0)


def test_an_unfinished_speed_record_is_named(speed_record: Make) -> None:
    record = speed_record("adaptive", 0.3, 2.2)
    del record["baseline"]
    with pytest.raises(DataError, match=r"speed record of 2026-05-05.*lacks baseline"):
        cost_report([record])
