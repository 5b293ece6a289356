"""Test that a file in another encoding, dialect or script is refused with the remedy that fits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from retention.data.local_files import read_file
from retention.data.sources import Source
from retention.errors import DataError
from retention.tasks.summarization.articles import _check_abstracts

COLUMNS = {"text_column": "sentence", "label_column": "label"}
ROWS = pd.DataFrame({"sentence": ["a fine film", "two hours lost"], "label": [1, 0]})


def failure(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        Source(str(folder), None).read("train", COLUMNS).texts("sentence")
    return str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_utf16_is_named(encoding: str, suffix: str, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS.to_dict("records")]
    text = ROWS.to_csv(index=False) if suffix == "csv" else "\n".join(lines)
    (tmp_path / f"train.{suffix}").write_bytes(text.encode(encoding))
    assert "is UTF-16, not UTF-8" in failure(tmp_path) and "iconv -t UTF-8 -f UTF-16" in failure(tmp_path)


def test_another_encoding_is_not_taken_for_utf16(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes("sentence,label\ncafé,1\n".encode("latin-1"))
    assert "iconv -t UTF-8 -f LATIN1" in failure(tmp_path)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_other_separators_are_named(mark: str, name: str, tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "train.csv", sep=mark, index=False)
    assert f"separated by {name}; save it with commas" in failure(tmp_path)


def test_commas_in_a_tab_separated_file_are_named(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "texts.tsv", index=False)
    with pytest.raises(DataError, match="separated by commas; save it with tabs"):
        read_file(tmp_path / "texts.tsv", COLUMNS)


def test_carriage_returns_are_named(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "train.csv", lineterminator="\r", index=False)
    assert "line ends of Unix or Windows" in failure(tmp_path)


@pytest.mark.parametrize("value", [["a sentence"] * 5000, {"a": "b" * 30_000}])
def test_long_values_are_shortened_in_messages(value: Any, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"sentence": value, "label": 1}))
    assert "must be a text" in failure(tmp_path) and len(failure(tmp_path)) < 400


def test_relative_folder_is_shown_with_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"rel ({tmp_path / 'rel'}): no such folder" in failure(Path("rel"))


def test_references_that_rouge_cannot_count_are_refused_or_counted(caplog: pytest.LogCaptureFixture) -> None:
    hindi = "कोशिका रेखा तनाव में बढ़ी"
    with pytest.raises(DataError, match="letters a-z or digits"):
        _check_abstracts([hindi, hindi], "test.jsonl: 'abstract'")
    with caplog.at_level(logging.WARNING):
        _check_abstracts([hindi, "we saw 3 cells"], "test.jsonl: 'abstract'")
    assert "in 1 of 2 rows" in caplog.text
    caplog.clear()
    _check_abstracts(["we saw", "über 3"], "test.jsonl: 'abstract'")
    assert not caplog.text
