"""Generated tables of README.md and docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction.check_figures import outdated_pages, regenerate, results_table, update_pages
from reproduction.sources import RecordSet, committed_files, read_record_set

from retention.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def records() -> RecordSet:
    return read_record_set(committed_files(ROOT), ROOT)


def test_generated_tables_of_all_pages_match_the_records(records: RecordSet) -> None:
    assert outdated_pages(ROOT, records) == [], "run `python -m reproduction readme`"


def test_results_table_has_figures_of_the_records(records: RecordSet) -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in results_table(records).splitlines()]
    assert len(lines) == 6
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert list(rows) == ["dense", "adaptive", "adaptive, saliency-distilled scorers", "random"]
    assert rows["adaptive"] == [
        *("0.3", "85.9 ± 0.4", "42.3 %", "1.82x (1.79-1.84)"),
        *("85.8 ± 1.2", "41.0 %", "2.30x (2.26-2.38)"),
    ]


def test_a_changed_figure_is_noticed_and_corrected(tmp_path: Path, records: RecordSet) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n<!-- generated: results -->\n{results_table(records)}\n<!-- end -->\nafter\n")
    assert outdated_pages(tmp_path, records) == []
    correct = page.read_text()
    page.write_text(correct.replace("85.9 ± 0.4", "86.9 ± 0.4"))
    assert outdated_pages(tmp_path, records) == [page]
    assert update_pages(tmp_path, records) == [page]
    assert page.read_text() == correct


def test_unknown_tables_are_named(records: RecordSet) -> None:
    with pytest.raises(DataError, match=r"generated: resluts.*results"):
        regenerate("<!-- generated: resluts -->\n<!-- end -->", records, ROOT)
    assert regenerate("no table\n", records, ROOT) == "no table\n"
