"""Command line of tables, figures and claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reproduction.__main__ import main

from retention.records import append_record


def test_every_table_is_written_in_three_formats(tmp_path: Path) -> None:
    assert main(["tables", "--out", str(tmp_path)]) == 0
    names = [f"table{number}" for number in range(1, 7)] + ["leaderboard", "schedules"]
    expected = {f"{name}{suffix}" for name in names for suffix in (".md", ".csv", ".tex")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_local_records_are_added(
    tmp_path: Path, quality: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    append_record(tmp_path / "local.jsonl", quality("adaptive", 0.3, 0.8, backbone="mine"))
    assert main(["leaderboard", "--records", str(tmp_path / "local.jsonl"), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "sst2, accuracy, mine" in shown and "sst2, accuracy, minilm" in shown


def test_committed_pages_take_no_local_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "local.jsonl").write_text("")
    for options in (["--records", str(tmp_path / "local.jsonl")], ["--task", "sst2"]):
        assert main(["claims", *options]) == 2
        assert "made from all committed records alone" in capsys.readouterr().err


def test_tasks_can_be_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--task", "imdb", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "imdb, accuracy" in shown and "sst2" not in shown
    assert main(["leaderboard", "--task", "imbd", "--out", str(tmp_path)]) == 2
    assert "--task: no record of imbd; there are arxiv" in capsys.readouterr().err


def test_broken_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "local.jsonl").write_text("{}\n")
    assert main(["table1", "--records", str(tmp_path / "local.jsonl"), "--out", str(tmp_path)]) == 2
    assert "local.jsonl:1: not a result record" in capsys.readouterr().err
