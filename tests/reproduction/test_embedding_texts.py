"""Test the collection of texts for distilling embedding models."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reproduction import embedding_texts
from reproduction.embedding_texts import SOURCES, collect, main, passages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a few rows of every source, with test rows that must not be read."""
    words = " ".join(f"word{index}" for index in range(400))
    for source in SOURCES:
        target = tmp_path / source.name
        target.mkdir()
        columns = (*source.cut, *source.whole)
        for split in ("train", "validation", "test"):
            texts = [f"{source.name} {split} {row} {words}" for row in range(3)]
            if columns:
                pq.write_table(pa.table({column: texts for column in columns}), target / f"{split}.parquet")
            else:
                content = {"data": [{"paragraphs": [{"context": text}]} for text in texts]}
                (target / f"{split}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return tmp_path


def test_texts_come_from_training_splits_of_every_source(folder: Path) -> None:
    rows = collect(folder, random.Random(0))
    assert {row["source"] for row in rows} == {source.name for source in SOURCES}
    assert not any(" test " in row["text"] for row in rows)
    assert len({row["text"] for row in rows}) == len(rows)


def test_sentences_that_embeddings_are_evaluated_on_are_left_out(folder: Path) -> None:
    before = {row["text"] for row in collect(folder, random.Random(0)) if row["source"] == "stsb"}
    repeated = sorted(before)[0]
    pq.write_table(pa.table({"sentence1": ["another"], "sentence2": [repeated]}), folder / "stsb" / "test.parquet")
    after = {row["text"] for row in collect(folder, random.Random(0)) if row["source"] == "stsb"}
    assert after == before - {repeated} and len(after) > 0


def test_passages_hold_the_requested_number_of_words_and_all_of_the_text() -> None:
    text = " ".join(str(index) for index in range(1000))
    parts = list(passages(text, (60, 90), random.Random(0)))
    assert all(60 <= len(part.split()) <= 90 for part in parts[:-1])
    assert " ".join(parts) == " ".join(text.split()[: sum(len(part.split()) for part in parts)])
    assert 1000 - sum(len(part.split()) for part in parts) < embedding_texts.MIN_WORDS


def test_same_command_writes_the_same_file(folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    assert [main([str(folder), str(file)]) for file in files] == [0, 0]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_missing_data_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "texts.parquet")]) == 2
    assert "imdb" in capsys.readouterr().err
    assert not (tmp_path / "texts.parquet").exists()
