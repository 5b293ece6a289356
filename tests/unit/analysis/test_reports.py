"""The paper's tables and the leaderboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
from reproduction.cost_report import cost_report
from reproduction.depth_report import depth_report
from reproduction.leaderboard import leaderboard
from reproduction.quality_report import ablation_report, quality_report
from reproduction.sources import Evidence
from reproduction.tables import Report, Section, comma_separated, latex, markdown

Make = Callable[..., dict[str, Any]]


def line(report: Report, section: int, method: str) -> dict[str, str]:
    """One row by its first cell, as column -> cell."""
    found = report.sections[section]
    row = next(row for row in found.rows if row[0] == method)
    return dict(zip(found.header, row, strict=True))


def test_table_1_puts_relations_beside_the_papers(quality: Make) -> None:
    records = [quality("dense", 1.0, 0.9, seed) for seed in range(3)]
    records += [quality("adaptive", 0.5, value, seed) for seed, value in enumerate((0.88, 0.87, 0.89))]
    row = line(quality_report(Evidence(tuple(records)).runs, 0.5), 0, "Adaptive Retention")
    assert (row["paper"], row["paper vs full"], row["paper share"]) == ("91.5", "-0.6", "99.3 %")
    assert (row["ours"], row["seeds"], row["ours - paper"]) == ("88.0 ± 1.0", "3 of 3", "-3.5")
    assert (row["vs own dense"], row["95 %"], row["share"]) == ("-2.0", "[-4.5, +0.5]", "97.8 %")


def test_nothing_is_invented_where_nothing_was_run() -> None:
    report = quality_report({}, 0.3)
    assert len(report.sections) == 9  # six benchmarks, three of them with two metrics
    for section in report.sections:
        place = section.header.index("ours")
        assert {row[place] for row in section.rows} == {"not run"}
        assert all(set(row[place + 1 :]) == {"-"} for row in section.rows)


def test_stand_ins_and_parts_are_named(quality: Make) -> None:
    records = (
        quality("dense", 1.0, 0.9, data={"source": "stand-in: other sentences", "train": 9, "test": 5}),
        quality("dense", 1.0, 0.8, data={"source": "SST-2 (GLUE)", "train": 20000, "test": 872}),
        quality("dense", 1.0, 0.7),
    )
    sections = [
        section for section in quality_report(Evidence(records).runs, 0.5).sections if "SST-2" in section.caption
    ]
    assert [section.caption for section in sections] == [
        "SST-2, accuracy: distilbert, part of the rows",
        "SST-2, accuracy: distilbert",
        "SST-2, accuracy: distilbert, STAND-IN",
    ]
    assert "20000 of 67349 training" in sections[0].notes[0]
    assert "STAND-IN, no benchmark result: stand-in: other sentences" in sections[2].notes[0]


def test_an_architecture_is_its_dense_model_on_the_same_rows(quality: Make) -> None:
    records = (
        quality("dense", 1.0, 0.9),
        quality("dense", 1.0, 0.8, backbone="longformer"),
        quality("dense", 1.0, 0.7, backbone="bigbird", data={"source": "SST-2 (GLUE)", "train": 5, "test": 872}),
    )
    report = quality_report(Evidence(records).runs, 0.5)
    number = [section.caption for section in report.sections].index("SST-2, accuracy: distilbert")
    row = line(report, number, "Longformer (cut to 64 tokens)")
    assert (row["ours"], row["vs own dense"]) == ("80.0", "-10.0")
    assert line(report, number, "BigBird")["ours"] == "not run"  # trained on other rows


def test_settings_are_never_mixed_in_a_cell(quality: Make) -> None:
    records = (
        quality("adaptive", 0.3, 0.8, 0),
        quality("adaptive", 0.3, 0.6, 1, config={"prune_at": "after_attention", "retention": {}}),
    )
    names = [row[0] for row in quality_report(Evidence(records).runs, 0.3).sections[0].rows]
    assert sum(name.startswith("Adaptive Retention (") for name in names) == 2


def test_swept_knobs_stay_out_of_tables(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.8, 0), quality("adaptive", 0.3, 0.2, 1, knobs={"beta": 1.5}))
    assert line(quality_report(Evidence(records).runs, 0.3), 0, "Adaptive Retention")["ours"] == "80.0"


def test_a_setting_that_came_later_does_not_part_old_runs_from_new(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.8, 0), quality("adaptive", 0.3, 0.6, 1, knobs={"relaxed": True}))
    assert line(quality_report(Evidence(records).runs, 0.3), 0, "Adaptive Retention")["seeds"] == "2 of 3"


def test_ablations_stand_beside_the_full_method(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.8), quality("threshold", 0.3, 0.75))
    section = ablation_report(Evidence(records).runs).sections[0]
    rows = [dict(zip(section.header, row, strict=True)) for row in section.rows]
    found = next(row for row in rows if row["method"] == "threshold pruning" and row["rho"] == "0.3")
    assert (found["paper vs full method"], found["vs own full method"]) == ("-3.7", "-5.0")


def test_table_4_compares_within_one_setting(speed: Make) -> None:
    records = [speed("adaptive", 0.3, 2.0), speed("adaptive", 0.3, 3.0, prune_at="after_attention")]
    report = cost_report(records)
    assert [section.caption.rpartition("removal ")[2] for section in report.sections] == [
        "after attention",
        "after layer",
    ]
    row = line(report, 1, "Adaptive Retention")
    assert (row["paper speed-up"], row["ours speed-up"], row["ours - paper"]) == ("1.80x", "2.00x (1.95-2.05)", "+0.20")
    assert row["peak MiB"] == "not measured"
    assert line(report, 1, "Longformer")["ours ms/batch"] == "not run"


def test_tables_5_and_6_count_layers_from_one(quality: Make) -> None:
    report = depth_report(Evidence((quality("adaptive", 0.3, 0.8),)).runs, 5)
    row = dict(zip(report.sections[0].header, report.sections[0].rows[3], strict=True))
    assert (row[""], row["layer 1"], row["layer 2"], row["layer 3"]) == ("ours", "60.0", "0.0", "-")
    assert depth_report({}, 6).sections[0].rows[1][2] == "not run"


def test_the_leaderboard_is_sorted_within_a_budget_and_joins_speed(quality: Make, speed: Make) -> None:
    records = [quality("dense", 1.0, 0.9), quality("random", 0.3, 0.7), quality("adaptive", 0.3, 0.8)]
    records.append(quality("adaptive", 0.5, 0.75))
    timed = [
        speed("adaptive", 0.3, 2.0),
        speed("adaptive", 0.5, 1.5, length=512),
        speed("random", 0.3, 9.0, phase="train"),
    ]
    section = leaderboard(Evidence(tuple(records)).runs, timed).sections[0]
    rows = [dict(zip(section.header, row, strict=True)) for row in section.rows]
    assert [(row["policy"], row["rho"], row["rank"]) for row in rows] == [
        ("dense", "1", "-"),
        ("adaptive", "0.5", "1"),
        ("adaptive", "0.3", "1"),
        ("random", "0.3", "2"),
    ]
    assert [row["measured speed-up"] for row in rows] == [
        "-",
        "not measured",  # another length
        "2.00x (1.95-2.05) on cpu, batch 32",
        "not measured",  # a training step
    ]


def test_equals_share_a_rank(quality: Make) -> None:
    values = {"random": 0.7, "truncate": 0.8, "adaptive": 0.8, "h2o": 0.9}
    records = tuple(quality(policy, 0.3, value) for policy, value in values.items())
    section = leaderboard(Evidence(records).runs, []).sections[0]
    rows = [dict(zip(section.header, row, strict=True)) for row in section.rows]
    ranks = {row["policy"]: row["rank"] for row in rows}
    assert ranks == {"h2o": "1", "adaptive": "2", "truncate": "2", "random": "4"}


def test_who_spends_more_than_the_others_has_no_rank(quality: Make) -> None:
    spent = {"ltp": 0.50, "adaptive": 0.423, "random": 0.418, "transkimmer": 0.380}
    records = tuple(
        quality(policy, 0.3, 0.9 - place / 10, flops_ratio=share) for place, (policy, share) in enumerate(spent.items())
    )
    section = leaderboard(Evidence(records).runs, []).sections[0]
    rows = [dict(zip(section.header, row, strict=True)) for row in section.rows]
    assert [(row["policy"], row["rank"]) for row in rows] == [
        ("ltp", "over budget"),
        ("adaptive", "1"),
        ("random", "2"),
        ("transkimmer", "3"),
    ]


def test_one_report_reads_the_same_in_three_formats() -> None:
    section = Section("50 % & more", ("name", "a|b"), (("x_1", "± 2"),), ("a note",))
    report = Report("demo", "Demo", ("How to read.",), (section,))
    assert "| x_1  |  ± 2 |" in markdown(report) and "a\\|b" in markdown(report) and "- a note" in markdown(report)
    assert list(csv.reader(io.StringIO(comma_separated(report)))) == [
        ["table", "name", "a|b", "notes"],
        ["50 % & more", "x_1", "± 2", "a note"],
    ]
    assert r"x\_1 & $\pm$ 2 \\" in latex(report) and r"50 \% \& more" in latex(report)


def test_sections_of_one_report_share_a_header() -> None:
    sections = (Section("a", ("x",), ()), Section("b", ("y",), ()))
    with pytest.raises(ValueError, match="share one header"):
        Report("demo", "Demo", (), sections)


def test_ablations_are_no_rivals_and_do_not_move_the_budget(quality: Make) -> None:
    spent = {"adaptive": 0.42, "ltp": 0.45, "threshold": 0.50, "adaptive_joint": 0.50}
    records = tuple(quality(policy, 0.3, 0.9, flops_ratio=share) for policy, share in spent.items())
    section = leaderboard(Evidence(records).runs, []).sections[0]
    ranks = {row[0]: row[2] for row in section.rows}
    assert ranks == {"adaptive": "1", "ltp": "1"}
