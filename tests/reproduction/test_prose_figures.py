"""Figures in the prose of the pages, and the ledger that they are checked with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reproduction.prose_figures import FIGURE, mismatches, prose, read_ledger, uncovered

from retention.errors import DataError
from retention.records import append_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Write a page and two records to a folder."""
    for seed, accuracy in enumerate((0.84, 0.88)):
        record = {"kind": "quality", "policy": "dense", "seed": seed, "metrics": {"accuracy": accuracy}}
        append_record(tmp_path / "runs.jsonl", record)
    (tmp_path / "page.md").write_text("Dense has 86.0 ± 2.8\nand more at 0.3.\n\n| 55.5 |\n\n`77.7`\n")
    return tmp_path


def ledger(**changes: Any) -> dict[str, Any]:
    entry = {"page": "page.md", "text": "has {86.0} ± {2.8} and", "records": "runs.jsonl", "where": {"policy": "dense"}}
    entry |= {"values": ["metrics.accuracy", "sd metrics.accuracy"], "scale": 100}
    return {"figures": [{**entry, **changes}], "settings": [r"at 0\.\d"], "unchecked": {"page.md": 0}}


def test_figures_of_the_pages_match_the_records() -> None:
    assert mismatches(ROOT, read_ledger()) == []


def test_no_figure_was_added_without_an_entry() -> None:
    allowed = read_ledger()["unchecked"]
    remaining = uncovered(ROOT, read_ledger())
    assert all(len(figures) <= allowed[page] for page, figures in remaining.items()), (
        "add an entry to reproduction/prose_figures.yaml for each new figure, or lower the number of unchecked ones"
    )


def test_mean_and_deviation_over_seeds_are_recomputed(page: Path) -> None:
    assert mismatches(page, ledger()) == []
    (page / "page.md").write_text("Dense has 86.1 ± 2.8 and")
    [wrong] = mismatches(page, ledger(text="has {86.1} ± {2.8} and"))
    assert (wrong.shown, wrong.recorded) == ("86.1", "86.0")


def test_a_changed_figure_is_not_covered_by_its_old_entry(page: Path) -> None:
    assert uncovered(page, ledger()) == {"page.md": []}
    assert uncovered(page, {**ledger(), "figures": []}) == {"page.md": ["86.0", "2.8"]}
    (page / "page.md").write_text("Dense has 86.1 ± 2.8 and")
    with pytest.raises(DataError, match="occurs 0 times"):
        mismatches(page, ledger())


@pytest.mark.parametrize("where", [{"policy": "random"}, {}])
def test_queries_must_leave_one_record_per_seed(page: Path, where: dict[str, Any]) -> None:
    append_record(page / "runs.jsonl", {"kind": "quality", "policy": "adaptive", "seed": 0, "metrics": {}})
    with pytest.raises(DataError, match="one per seed"):
        mismatches(page, ledger(where=where))


def test_only_prose_counts() -> None:
    text = "a 1.5 b\n```\n2.5\n```\n| 3.5 |\n<!-- generated: x -->\n4.5\n<!-- end -->\n[5.5](6.5.md) `7.5` 8 % 9 v1.2.3"
    assert FIGURE.findall(prose(text)) == ["1.5", "5.5", "8"]
