"""Generated tables of README.md and docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reproduction.check_figures import GENERATED, outdated_pages, regenerate, update_pages
from reproduction.sources import RecordSet, committed_files, read_record_set

from retention.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def records() -> RecordSet:
    return read_record_set(committed_files(ROOT), ROOT)


def test_generated_tables_of_all_pages_match_the_records(records: RecordSet) -> None:
    assert outdated_pages(ROOT, records) == [], "run `python -m reproduction readme`"


def test_a_changed_figure_is_noticed_and_corrected(tmp_path: Path, records: RecordSet) -> None:
    page = tmp_path / "README.md"
    table = GENERATED["results"](records)
    page.write_text(f"before\n<!-- generated: results -->\n{table}\n<!-- end -->\nafter\n")
    figure = re.search(r"\d\d\.\d", table)
    assert figure is not None
    assert outdated_pages(tmp_path, records) == []
    correct = page.read_text()
    page.write_text(correct.replace(figure[0], "12.3", 1))
    assert outdated_pages(tmp_path, records) == [page]
    assert update_pages(tmp_path, records) == [page]
    assert page.read_text() == correct


def test_unknown_tables_are_named(records: RecordSet) -> None:
    with pytest.raises(DataError, match=r"generated: resluts.*results"):
        regenerate("<!-- generated: resluts -->\n<!-- end -->", records, ROOT)
    assert regenerate("no table\n", records, ROOT) == "no table\n"
