"""The one command behind every table, figure and the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.records import append_record

Main = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def report(main_of: Callable[[str], Main]) -> Main:
    return main_of("report")


def test_every_table_is_written_three_times(report: Main, tmp_path: Path) -> None:
    assert report(["tables", "--out", str(tmp_path)]) == 0
    names = [f"table{number}" for number in range(1, 7)] + ["leaderboard"]
    expected = {f"{name}{suffix}" for name in names for suffix in (".md", ".csv", ".tex")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_local_records_stand_beside_the_committed(
    report: Main, tmp_path: Path, quality: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    append_record(tmp_path / "own.jsonl", quality("adaptive", 0.3, 0.8, backbone="mine"))
    assert report(["leaderboard", "--records", str(tmp_path / "own.jsonl"), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "sst2, accuracy, mine" in shown and "sst2, accuracy, minilm" in shown


def test_the_committed_ledger_takes_no_local_records_and_no_choice(
    report: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.jsonl").write_text("")
    for words in (["--records", str(tmp_path / "own.jsonl")], ["--task", "sst2"]):
        assert report(["claims", *words]) == 2
        assert "committed records and these alone; give --out" in capsys.readouterr().err


def test_tasks_can_be_chosen(report: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(["leaderboard", "--task", "imdb", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "imdb, accuracy" in shown and "sst2" not in shown
    assert report(["leaderboard", "--task", "imbd", "--out", str(tmp_path)]) == 2
    assert "--task: no record of imbd; there are arxiv" in capsys.readouterr().err


def test_a_broken_line_is_named(report: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.jsonl").write_text("{}\n")
    assert report(["table1", "--records", str(tmp_path / "own.jsonl"), "--out", str(tmp_path)]) == 2
    assert "own.jsonl:1: not a result record" in capsys.readouterr().err
