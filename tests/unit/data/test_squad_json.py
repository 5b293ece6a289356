"""Reading SQuAD's layout: accepted files, and the errors of invalid ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

from retention.data.sources import Source
from retention.data.squad_json import SquadAnswer, read_squad, read_squad_json
from retention.errors import DataError


def contract(title: str = "A", **changes: Any) -> dict[str, Any]:
    question = {
        "id": f"{title}__Parties",
        "question": "Who?",
        "answers": [{"text": "Über \x00 Ltd.", "answer_start": 8}],
        "is_impossible": False,
    }
    empty = {"id": f"{title}__Fee", "question": "How much?", "answers": [], "is_impossible": True}
    paragraph = {"context": "between Über \x00 Ltd. and \U0001f40e Inc.", "qas": [{**question, **changes}, empty]}
    return {"title": title, "paragraphs": [paragraph]}


def write(folder: Path, content: Any, name: str = "train.json") -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps({"version": "1", "data": content})
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["train.json", "train.json.gz"])
def test_documents_are_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, [contract("A"), contract("B", answers=[])], name)
    first, second = read_squad(Source(str(tmp_path), None), "train")
    assert [first.title, second.title] == ["A", "B"]
    [paragraph] = first.paragraphs
    who, fee = paragraph.questions
    assert who.id == "A__Parties" and who.text == "Who?" and fee.answers == ()
    assert who.answers == (SquadAnswer("Über \x00 Ltd.", 8),)
    assert second.paragraphs[0].questions[0].answers == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"answers": [{"text": "Ltd.", "answer_start": 8}]},
            "answer 1: 'Ltd.' is not at character 8 of the context, 'Über' is; correct answer_start",
        ),
        ({"answers": [{"text": "Ltd.", "answer_start": -9}]}, "answer 1: 'answer_start' must be a whole number of"),
        ({"answers": [{"text": "Ltd.", "answer_start": True}]}, "answer 1: 'answer_start' must be a whole number of"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "answer 1: 'text' must be a text with something in it"),
        ({"answers": ["Ltd."]}, "answer 1: must be a JSON object, got str"),
        ({"answers": None}, "'answers' must be a list, got NoneType"),
        ({"id": True}, "'id' must be a text with something in it, got True"),
        ({"is_impossible": True}, "has answers, but 'is_impossible' is true"),
        ({"question": "half \ud83d"}, "'question' has half a character (lone surrogate) at position 5"),
    ],
)
def test_invalid_question_raises_with_location(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = write(tmp_path, [contract("A"), contract("B", **changes)])
    with pytest.raises(DataError) as raised:
        read_squad_json(path)
    message = str(raised.value)
    assert message.startswith(f"{path}, document 2 (B), paragraph 1, question 1") and problem in message


def test_documents_without_title_and_numeric_ids_as_in_covid_qa(tmp_path: Path) -> None:
    documents = [contract("A", id=7), contract("B")]
    del documents[0]["title"]
    first, second = read_squad_json(write(tmp_path, documents))
    assert (first.title, first.paragraphs[0].questions[0].id, second.title) == ("document 1", "7", "B")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "broken JSON ("),
        ("[]", "must be a JSON object with a list of documents under 'data'"),
        ('{"data": []}', "must be a JSON object with a list of documents under 'data'"),
        ('{"data": [3]}', "document 1: must be a JSON object, got int"),
        ('{"data": [{"title": " ", "paragraphs": []}]}', "document 1: 'title' must be a text"),
        ('{"data": [{"title": "A"}]}', "document 1 (A): 'paragraphs' must be a list, got NoneType"),
        (json.dumps({"data": [contract("A"), contract("A")]}), "document 2: the title 'A' occurs twice"),
    ],
)
def test_invalid_file_raises_with_location(tmp_path: Path, content: str, problem: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as raised:
        read_squad_json(path)
    assert str(raised.value).startswith(f"{path}") and problem in str(raised.value)


def test_damaged_files_raise(tmp_path: Path) -> None:
    path = write(tmp_path, [contract()], "train.json.gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train\.json\.gz: not a readable gzip file"):
        read_squad_json(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"not a readable gzip file \(Not a gzipped file"):
        read_squad_json(path)
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(DataError, match="not UTF-8 at byte 10"):
        read_squad_json(latin)


def test_missing_and_duplicate_files_raise(tmp_path: Path) -> None:
    source = Source(str(tmp_path), None)
    with pytest.raises(DataError, match=r"none of train\.json, train\.json\.gz is there"):
        read_squad(source, "train")
    write(tmp_path, [contract()])
    write(tmp_path, [contract()], "train.json.gz")
    with pytest.raises(DataError, match=r"has train\.json and train\.json\.gz; keep exactly one"):
        read_squad(source, "train")


def test_hub_rows_become_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[dict[str, list[Any]]] = [
        {"text": ["Ltd."], "answer_start": [2]},
        {"text": [], "answer_start": []},
        {"text": ["x", "y"], "answer_start": [0, 2]},
    ]
    columns = {
        "id": ["A__Parties_0", "A__Fee", "B__Fee"],
        "title": ["A", "A", "B"],
        "context": ["a Ltd.", "a Ltd.", "x y"],
        "question": ["Who?", "How much?", "How much?"],
        "answers": answers,
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: Dataset.from_dict(columns))
    source = Source(None, {"path": "org/contracts"})
    first, second = read_squad(source, "train")
    assert (first.title, len(first.paragraphs), len(first.paragraphs[0].questions)) == ("A", 1, 2)
    assert [answer.text for answer in second.paragraphs[0].questions[0].answers] == ["x", "y"]
    columns["answers"] = [*answers[:2], {"text": ["z"], "answer_start": [0]}]
    with pytest.raises(DataError, match=r"hub data set org/contracts, split train, row 3, answer 1: 'z' is not at"):
        read_squad(source, "train")
    columns.pop("answers")
    with pytest.raises(DataError, match="has no column 'answers'"):
        read_squad(source, "train")
