"""Test the retrieval collection that is made of files in SQuAD's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reproduction.squad_retrieval import main

from retention.tasks.reranking.collection import read_collection


def paragraph(text: str, *questions: tuple[str, bool]) -> dict[str, Any]:
    answer = {"text": text.split()[0], "answer_start": 0}
    rows = [
        {"id": name, "question": f"{name} ?", "answers": [answer] if answered else [], "is_impossible": not answered}
        for name, answered in questions
    ]
    return {"context": text, "qas": rows}


def squad_file(path: Path, *paragraphs: dict[str, Any]) -> str:
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": path.stem, "paragraphs": list(paragraphs)}]}))
    return str(path)


def test_answered_questions_are_queries_of_their_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = squad_file(tmp_path / "train.json", paragraph("red  apples", ("a", True), ("b", False)), paragraph("sky"))
    test = squad_file(tmp_path / "test.json", paragraph("green pears", ("c", True)))
    assert main([str(tmp_path / "out"), "--train", train, "--test", test]) == 0
    assert "3 documents, 1 train queries, 1 test queries" in capsys.readouterr().out
    collections = {split: read_collection(tmp_path / "out", None, split) for split in ("train", "test")}
    assert list(collections["train"].documents.values()) == ["red apples", "sky", "green pears"]
    for split, (query, text) in {"train": ("a", "red apples"), "test": ("c", "green pears")}.items():
        [document] = collections[split].relevance[query]
        assert list(collections[split].queries) == [query] and collections[split].documents[document] == text


def test_test_paragraphs_in_training_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = squad_file(tmp_path / "train.json", paragraph("red apples", ("a", True)))
    test = squad_file(tmp_path / "test.json", paragraph("red apples", ("c", True)))
    assert main([str(tmp_path / "out"), "--train", train, "--test", test]) == 2
    assert "in the training files too" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ids_that_occur_twice_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = squad_file(tmp_path / "train.json", paragraph("red apples", ("a", True)))
    test = squad_file(tmp_path / "test.json", paragraph("green pears", ("a", True)))
    assert main([str(tmp_path / "out"), "--train", train, "--test", test]) == 2
    assert "'a' occurs twice" in capsys.readouterr().err
