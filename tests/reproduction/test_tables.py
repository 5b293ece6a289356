"""Tables of the paper and the leaderboard."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from reproduction.cost_report import cost_report
from reproduction.depth_report import depth_report
from reproduction.leaderboard import COLUMNS, LeaderboardColumn, leaderboard
from reproduction.quality_report import ablation_report, quality_report
from reproduction.sources import RecordSet
from reproduction.tables import Report, Table, to_csv, to_latex, to_markdown

from retention.report.grouping import Runs

Make = Callable[..., dict[str, Any]]


def line(report: Report, table: int, method: str) -> dict[str, str]:
    """Return a row by its first cell, as column -> cell."""
    result = report.tables[table]
    row = next(row for row in result.rows if row[0] == method)
    return dict(zip(result.header, row, strict=True))


def test_table_1_compares_ours_with_the_papers(quality: Make) -> None:
    records = [quality("dense", 1.0, 0.9, seed) for seed in range(3)]
    records += [quality("adaptive", 0.5, value, seed) for seed, value in enumerate((0.88, 0.87, 0.89))]
    row = line(quality_report(RecordSet(tuple(records)).runs, 0.5), 0, "Adaptive Retention")
    assert (row["paper"], row["paper vs full"], row["paper % of full"]) == ("91.5", "-0.6", "99.3 %")
    assert (row["ours"], row["seeds"], row["ours - paper"]) == ("88.0 ± 1.0", "3 of 3", "-3.5")
    assert (row["vs our dense"], row["95 % interval"], row["% of dense"]) == ("-2.0", "[-4.5, +0.5]", "97.8 %")


def test_tables_without_runs_are_marked() -> None:
    report = quality_report(Runs(), 0.3)
    assert len(report.tables) == 9  # six benchmarks, three of them with two metrics
    for table in report.tables:
        index = list(table.header).index("ours")
        assert {row[index] for row in table.rows} == {"not run"}
        assert all(set(row[index + 1 :]) == {"-"} for row in table.rows)


def test_stand_ins_and_subsets_are_marked(quality: Make) -> None:
    records = (
        quality("dense", 1.0, 0.9, data={"source": "stand-in: other sentences", "train": 9, "test": 5}),
        quality("dense", 1.0, 0.8, data={"source": "SST-2 (GLUE)", "train": 20000, "test": 872}),
        quality("dense", 1.0, 0.7),
    )
    tables = [table for table in quality_report(RecordSet(records).runs, 0.5).tables if "SST-2" in table.caption]
    assert [table.caption for table in tables] == [
        "SST-2, accuracy: distilbert, part of the rows",
        "SST-2, accuracy: distilbert",
        "SST-2, accuracy: distilbert, STAND-IN",
    ]
    assert "20000 of 67349 training" in tables[0].notes[0]
    assert "STAND-IN, no benchmark result: stand-in: other sentences" in tables[2].notes[0]


def test_other_architecture_is_its_dense_model_on_the_same_data(quality: Make) -> None:
    records = (
        quality("dense", 1.0, 0.9),
        quality("dense", 1.0, 0.8, backbone="longformer"),
        quality("dense", 1.0, 0.7, backbone="bigbird", data={"source": "SST-2 (GLUE)", "train": 5, "test": 872}),
    )
    report = quality_report(RecordSet(records).runs, 0.5)
    number = [table.caption for table in report.tables].index("SST-2, accuracy: distilbert")
    row = line(report, number, "Longformer (cut to 64 tokens)")
    assert (row["ours"], row["vs our dense"]) == ("80.0", "-10.0")
    assert line(report, number, "BigBird")["ours"] == "not run"  # trained on other rows


def test_runs_with_other_settings_get_separate_rows(quality: Make) -> None:
    records = (
        quality("adaptive", 0.3, 0.8, 0),
        quality("adaptive", 0.3, 0.6, 1, config={"prune_at": "after_attention", "retention": {}}),
    )
    names = [row[0] for row in quality_report(RecordSet(records).runs, 0.3).tables[0].rows]
    assert sum(name.startswith("Adaptive Retention (") for name in names) == 2


def test_swept_runs_are_left_out(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.8, 0), quality("adaptive", 0.3, 0.2, 1, hyperparameters={"beta": 1.5}))
    assert line(quality_report(RecordSet(records).runs, 0.3), 0, "Adaptive Retention")["ours"] == "80.0"


def test_later_setting_does_not_separate_old_runs(quality: Make) -> None:
    old = {"_target_": "retention.policies.adaptive.Adaptive"}
    records = (
        quality("adaptive", 0.3, 0.8, 0, hyperparameters=old),
        quality("adaptive", 0.3, 0.6, 1, hyperparameters={**old, "relaxed": True}),
    )
    assert line(quality_report(RecordSet(records).runs, 0.3), 0, "Adaptive Retention")["seeds"] == "2 of 3"


def test_ablations_are_compared_with_the_full_method(quality: Make) -> None:
    records = (quality("adaptive", 0.3, 0.8), quality("threshold", 0.3, 0.75))
    table = ablation_report(RecordSet(records).runs).tables[0]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    result = next(row for row in rows if row["method"] == "threshold pruning" and row["rho"] == "0.3")
    assert (result["paper vs full method"], result["vs our full method"]) == ("-3.7", "-5.0")


def test_table_4_compares_under_equal_conditions(speed: Make) -> None:
    records = [speed("adaptive", 0.3, 2.0), speed("adaptive", 0.3, 3.0, prune_at="after_attention")]
    report = cost_report(records)
    assert [table.caption.rpartition("pruning ")[2] for table in report.tables] == [
        "after attention",
        "after layer",
    ]
    row = line(report, 1, "Adaptive Retention")
    assert (row["paper speedup"], row["our speedup"], row["ours - paper"]) == ("1.80x", "2.00x (1.95-2.05)", "+0.20")
    assert row["peak MiB"] == "not measured"
    assert line(report, 1, "Longformer")["ours ms/batch"] == "not run"


def test_tables_5_and_6_count_layers_from_one(quality: Make) -> None:
    report = depth_report(RecordSet((quality("adaptive", 0.3, 0.8),)).runs, 5)
    row = dict(zip(report.tables[0].header, report.tables[0].rows[3], strict=True))
    assert (row[""], row["layer 1"], row["layer 2"], row["layer 3"]) == ("ours", "60.0", "0.0", "-")
    assert depth_report(Runs(), 6).tables[0].rows[1][2] == "not run"


def test_leaderboard_is_sorted_within_a_keep_ratio_and_shows_speed(quality: Make, speed: Make) -> None:
    records = [quality("dense", 1.0, 0.9), quality("random", 0.3, 0.7), quality("adaptive", 0.3, 0.8)]
    records.append(quality("adaptive", 0.5, 0.75))
    timed = [
        speed("adaptive", 0.3, 2.0),
        speed("adaptive", 0.5, 1.5, length=512),
        speed("random", 0.3, 9.0, phase="train"),
    ]
    table = leaderboard(RecordSet(tuple(records)).runs, timed).tables[0]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [(row["policy"], row["rho"], row["rank"]) for row in rows] == [
        ("dense", "1", "-"),
        ("adaptive", "0.5", "1"),
        ("adaptive", "0.3", "1"),
        ("random", "0.3", "2"),
    ]
    assert [row["measured speedup"] for row in rows] == [
        "-",
        "not measured",  # another length
        "2.00x (1.95-2.05) on cpu, batch 32",
        "not measured",  # a training step
    ]


def test_equal_means_share_a_rank(quality: Make) -> None:
    values = {"random": 0.7, "truncate": 0.8, "adaptive": 0.8, "h2o": 0.9}
    records = tuple(quality(policy, 0.3, value) for policy, value in values.items())
    table = leaderboard(RecordSet(records).runs, []).tables[0]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    ranks = {row["policy"]: row["rank"] for row in rows}
    assert ranks == {"h2o": "1", "adaptive": "2", "truncate": "2", "random": "4"}


def test_policy_over_budget_has_no_rank(quality: Make) -> None:
    spent = {"ltp": 0.50, "adaptive": 0.423, "random": 0.418, "transkimmer": 0.380}
    records = tuple(
        quality(policy, 0.3, 0.9 - index / 10, flops_ratio=share) for index, (policy, share) in enumerate(spent.items())
    )
    table = leaderboard(RecordSet(records).runs, []).tables[0]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [(row["policy"], row["rank"]) for row in rows] == [
        ("ltp", "over budget"),
        ("adaptive", "1"),
        ("random", "2"),
        ("transkimmer", "3"),
    ]


def test_report_in_three_formats() -> None:
    table = Table("50 % & more", ("name", "a|b"), (("x_1", "± 2"),), ("a note",))
    report = Report("demo", "Demo", "How to read.", (table,))
    text = to_markdown(report)
    assert "| x_1    |    ± 2 |" in text and "a\\|b" in text and "- a note" in text
    assert list(csv.reader(io.StringIO(to_csv(report)))) == [
        ["table", "name", "a|b", "notes"],
        ["50 % & more", "x_1", "± 2", "a note"],
    ]
    assert re.search(r"x\\_1 +& +\$\\pm\$ 2 +\\\\", to_latex(report)) and r"50 \% \& more" in to_latex(report)


def test_tables_of_a_report_need_equal_columns() -> None:
    tables = (Table("a", ("x",), ()), Table("b", ("y",), ()))
    with pytest.raises(ValueError, match="same columns"):
        Report("demo", "Demo", "", tables)


def test_ablations_are_left_out_of_the_leaderboard(quality: Make) -> None:
    spent = {"adaptive": 0.42, "ltp": 0.45, "threshold": 0.50, "adaptive_joint": 0.50}
    records = tuple(quality(policy, 0.3, 0.9, flops_ratio=share) for policy, share in spent.items())
    table = leaderboard(RecordSet(records).runs, []).tables[0]
    ranks = {row[0]: row[2] for row in table.rows}
    assert ranks == {"adaptive": "1", "ltp": "1"}


def test_leaderboard_column_is_added_in_one_place(quality: Make) -> None:
    seeds = LeaderboardColumn("all seeds", lambda entry: " ".join(str(r["seed"]) for r in entry.group.records))
    records = tuple(quality("adaptive", 0.3, 0.8, seed) for seed in (3, 1))
    report = leaderboard(RecordSet(records).runs, [], (*COLUMNS, seeds))
    assert line(report, 0, "adaptive")["all seeds"] == "1 3"
    assert "all seeds" in to_markdown(report) and "1 3" in to_csv(report) and "1 3" in to_latex(report)
    assert "all seeds" not in to_markdown(leaderboard(RecordSet(records).runs, []))


def test_leaderboard_needs_a_dense_model_that_was_trained_alike(quality: Make) -> None:
    config = {"prune_at": "after_layer", "distill": {"token_states": 1}, "retention": {}}
    records = (quality("dense", 1.0, 0.9), quality("adaptive", 0.3, 0.8, config=config))
    assert line(leaderboard(RecordSet(records).runs, []), 0, "adaptive")["vs dense"] == "no like reference"
