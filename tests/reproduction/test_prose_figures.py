"""Figures in the prose of the pages, and the ledger that they are checked with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from reproduction.prose_figures import FIGURE, mismatches, prose, read_ledger, uncovered

from retention.errors import DataError
from retention.records import append_record

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("claims", "claims_ledger", "reliability", "theory")  # written from the records


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


def test_every_page_is_checked_or_generated() -> None:
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.stem not in GENERATED}
    assert set(read_ledger()["unchecked"]) == {"README.md", *pages}


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


@pytest.fixture
def two_policies(page: Path) -> Path:
    """Add a second policy, with one seed more."""
    for seed, accuracy in ((0, 0.80), (1, 0.86), (2, 0.50)):
        record = {"kind": "quality", "policy": "random", "seed": seed, "metrics": {"accuracy": accuracy}}
        append_record(page / "runs.jsonl", record)
    return page


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (
            "by {3} points ({2.0} to {4.0})",
            {"values": ["metrics.accuracy", "min metrics.accuracy", "max metrics.accuracy"]},
        ),
        ("is {1.037}x", {"values": [{"value": "metrics.accuracy", "scale": 1}]}),
        (
            "all four {85.0}",
            {"values": ["median metrics.accuracy"], "where": {"seed": [0, 1]}, "by": ["policy", "seed"]},
        ),
    ],
    ids=["minus", "over", "by"],
)
def test_differences_ratios_and_groups_are_recomputed(two_policies: Path, text: str, changes: dict[str, Any]) -> None:
    second = {"where": {"policy": "random"}}
    changes = {**changes, "text": text, **({"minus": second} if "points" in text else {})}
    changes |= {"over": second} if "x" in text else {}
    plain = text.replace("{", "").replace("}", "")
    (two_policies / "page.md").write_text(plain)
    assert mismatches(two_policies, ledger(**changes)) == []
    last = re.findall(r"\{(.*?)\}", text)[-1]
    wrong = str(float(last) + 0.5)
    (two_policies / "page.md").write_text(plain.replace(last, wrong))
    [found] = mismatches(two_policies, ledger(**{**changes, "text": text.replace(last, wrong)}))
    assert found.shown == wrong


def test_the_second_set_needs_a_record_for_each_of_the_first(two_policies: Path) -> None:
    second = {"where": {"policy": "dense"}}
    with pytest.raises(DataError, match="minus: has no record of"):
        mismatches(two_policies, ledger(where={"policy": "random"}, minus=second))


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("ahead by 2 to 3 points, 5 points and 1 point", ["2", "3", "5", "1"]),
        ("84-108 % of it, 59, 42 and 26 %", ["84", "108", "59", "42", "26"]),
        ("8x faster, 2.3x, 3 times, 1,024 nats", ["8", "2.3", "3", "1,024"]),
        ("from -1.5 [-4.5, +2.4]", ["-1.5", "-4.5", "+2.4"]),
        ("6 layers, width 384, seed 0, 1,024 tokens, 2026-11-28, layers 2 and 5, gpt-2, pointless 3 pointers", []),
    ],
)
def test_figures_are_decimals_and_numbers_with_a_unit(text: str, figures: list[str]) -> None:
    assert FIGURE.findall(text) == figures


def test_only_prose_counts() -> None:
    text = "a 1.5 b\n```\n2.5\n```\n| 3.5 |\n<!-- generated: x -->\n4.5\n<!-- end -->\n[5.5](6.5.md) `7.5` 8 % 9 v1.2.3"
    assert FIGURE.findall(prose(text)) == ["1.5", "5.5", "8"]
