"""Tables of measured figures that reproduction/result_tables.yaml describes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from reproduction.check_figures import GENERATED, hand_written_figures, outdated_pages, pages
from reproduction.result_tables import literal_figures, read_tables, result_table
from reproduction.sources import RecordSet

from retention.errors import DataError
from retention.records import append_record

ROOT = Path(__file__).resolve().parents[2]
ABLATIONS = "results/quality/sst2_ablations.jsonl"
_SHOWN = re.compile(r"<!-- generated: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_every_described_table_is_on_a_page() -> None:
    shown = [name for page in pages(ROOT) for name in _SHOWN.findall(page.read_text(encoding="utf-8"))]
    assert set(read_tables()["tables"]) <= set(shown)
    assert not set(read_tables()["tables"]) & set(GENERATED)


@pytest.mark.parametrize(("page", "allowed"), [("results", ["95"]), ("experiment_log", [])])  # the 95 % of intervals
def test_no_figure_of_a_table_is_written_by_hand(page: str, allowed: list[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert hand_written_figures(text) == allowed
    assert hand_written_figures(f"{text}\n| random | 80.8 |\n") == [*allowed, "80.8"]


def test_texts_of_the_description_hold_no_measured_figure() -> None:
    description = read_tables()
    assert literal_figures(description) == {}
    row = {"cells": ["random", "80.8", "42 %"]}
    changed = {**description["tables"]["ablations"], "rows": [row]}
    assert literal_figures({**description, "tables": {"ablations": changed}}) == {"ablations": ["80.8", "42"]}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copy a table of the pages and its records to a folder."""
    for file in (ABLATIONS, "results/paired/sst2_ablations.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True)
        shutil.copy(ROOT / file, tmp_path / file)
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    [block] = [match[0] for match in _SHOWN.finditer(text) if match[1] == "ablations"]
    (tmp_path / "README.md").write_text(f"{block}\n", encoding="utf-8")
    return tmp_path


def test_a_changed_cell_is_noticed(copied: Path) -> None:
    assert outdated_pages(copied, RecordSet(())) == []
    page = copied / "README.md"
    page.write_text(page.read_text(encoding="utf-8").replace("80.1", "80.2"), encoding="utf-8")
    assert outdated_pages(copied, RecordSet(())) == [page]


def test_a_changed_record_is_noticed(copied: Path) -> None:
    file = copied / ABLATIONS
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for record in records:
        if record["policy"] == "adaptive_fixed_lambda":
            record["metrics"]["accuracy"] += 0.002
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    assert outdated_pages(copied, RecordSet(())) == [copied / "README.md"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write records of two policies with two seeds, and of one with a single seed."""
    runs = {"dense": (0.86, 0.88), "random": (0.80, 0.84), "truncate": (0.81,)}
    for policy, accuracies in runs.items():
        for seed, accuracy in enumerate(accuracies):
            record = {"kind": "quality", "policy": policy, "seed": seed, "metrics": {"accuracy": accuracy}}
            record["flops_ratio"] = 0.424 if policy == "random" else 0.416 if policy == "truncate" else 1.0
            append_record(tmp_path / "runs.jsonl", record)
    return tmp_path


def description(**changes: Any) -> dict[str, Any]:
    table = {
        "records": "runs.jsonl",
        "value": "metrics.accuracy",
        "columns": ["policy", {"title": "accuracy", "cell": "{score}{deviation}"}],
        "rows": [{"cells": [policy], "where": {"policy": policy}} for policy in ("dense", "random", "truncate")],
    }
    figures = {
        "score": {"scale": 100, "show": "{:.1f}"},
        "deviation": {"summary": "sd", "scale": 100, "show": " ± {:.1f}"},
    }
    return {"figures": figures, "settings": [], "tables": {"made": {**table, **changes}}}


def test_cells_take_the_query_of_table_column_row_and_figure(root: Path) -> None:
    columns = [
        "policy",
        {"title": "seed 0", "cell": "{score}", "where": {"seed": 0}},
        {"title": "behind", "cell": "{behind}", "figures": {"behind": {"minus": {"where": {"policy": "dense"}}}}},
    ]
    figures = {"behind": {"scale": 100, "show": "{:+.1f}"}}
    table = result_table(root, "made", description(columns=columns, figures=figures))
    assert cells(table)[2:] == [["dense", "86.0", "+0.0"], ["random", "80.0", "-5.0"], ["truncate", "81.0", "-5.0"]]


def test_deviations_need_two_seeds(root: Path) -> None:
    table = result_table(root, "made", description())
    assert cells(table)[2:] == [["dense", "87.0 ± 1.4"], ["random", "82.0 ± 2.8"], ["truncate", "81.0"]]


def test_texts_of_a_row_replace_those_of_the_columns(root: Path) -> None:
    rows = [{"cells": ["{score}", "none"], "where": {"policy": "dense"}}]
    assert cells(result_table(root, "made", description(rows=rows)))[2] == ["87.0", "none"]


def test_figures_with_above_show_only_what_is_above(root: Path) -> None:
    columns = ["policy", {"title": "accuracy", "cell": "{score}{flops}"}]

    def column(show: str) -> list[str]:
        figure = {"value": "flops_ratio", "above": {"where": {"policy": "truncate"}}, "show": show}
        table = result_table(root, "made", description(columns=columns, figures={"flops": figure}))
        return [row[1] for row in cells(table)[2:]]

    assert column(" ({:.2f})") == ["87.0 (1.00)", "82.0", "81.0"]  # 0.424 and 0.416 are both 0.42
    assert column(" ({:.3f})") == ["87.0 (1.000)", "82.0 (0.424)", "81.0"]


def test_intervals_that_exclude_0_are_bold(root: Path) -> None:
    figures = {
        end: {"summary": summary, "minus": {"where": {"policy": "dense"}}, "scale": 100, "show": "{:+.1f}"}
        for end, summary in (("low", "min"), ("high", "max"))
    }
    columns = ["policy", {"title": "interval", "cell": "[{low}, {high}]"}]
    rows = [{"cells": [policy], "where": {"policy": policy}} for policy in ("dense", "random")]
    table = result_table(root, "made", description(columns=columns, rows=rows, figures=figures, bold=["low", "high"]))
    assert [row[1] for row in cells(table)[2:]] == ["[+0.0, +0.0]", "**[-6.0, -4.0]**"]


def test_each_shows_the_value_of_every_record(root: Path) -> None:
    figures = {"score": {"summary": "each"}}
    assert [row[1] for row in cells(result_table(root, "made", description(figures=figures)))[2:]] == [
        "86.0, 88.0 ± 1.4",
        "80.0, 84.0 ± 2.8",
        "81.0",
    ]


@pytest.mark.parametrize(("changes", "alignment"), [({}, "left, right"), ({"labels": 2}, "left, left")])
def test_labels_are_aligned_to_the_left(root: Path, changes: dict[str, Any], alignment: str) -> None:
    [_, ruler, *_] = cells(result_table(root, "made", description(**changes)))
    assert ", ".join("left" if mark.startswith(":") else "right" for mark in ruler) == alignment


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"cells": ["x", "{scroe}"], "where": {"policy": "dense"}}, r"made: 'x', 'accuracy': .*'scroe'.* score"),
        ({"cells": ["x"], "where": {"policy": "other"}}, r"made: 'x', 'accuracy': runs.jsonl.*leaves 0 records"),
        ({"cells": ["x"]}, r"leaves 5 records"),
        ({"cells": ["x", "1", "2"]}, r"needs a text for each column"),
        ({"cells": []}, r"needs a text for each column"),
    ],
)
def test_cells_without_an_answer_are_named(root: Path, row: dict[str, Any], error: str) -> None:
    with pytest.raises(DataError, match=error):
        result_table(root, "made", description(rows=[row]))


def test_a_description_needs_all_parts(tmp_path: Path) -> None:
    (tmp_path / "tables.yaml").write_text("tables: {}\n")
    with pytest.raises(DataError, match="figures, settings and tables"):
        read_tables(tmp_path / "tables.yaml")
