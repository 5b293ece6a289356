"""Papers and contracts as stored on the hub's converted branches: objects of lists, one row per question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from datasets import Dataset

CONF = Path(__file__).parents[4] / "conf" / "task"
TEXT = "we use the red wine of the german corpus and the english data"
ServeRows = Callable[[dict[str, list[Any]]], list[tuple[Any, ...]]]


@pytest.fixture
def serve_rows(monkeypatch: pytest.MonkeyPatch) -> ServeRows:
    """Replace the hub by these rows, and return the list of requests it receives."""

    def serve(columns: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
        requests: list[tuple[Any, ...]] = []

        def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> Dataset:
            requests.append((path, name, split, revision))
            return Dataset.from_dict(columns)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return requests

    return serve


def hub_of(task: str) -> dict[str, Any]:
    hub: dict[str, Any] = yaml.safe_load((CONF / f"{task}.yaml").read_text())["data"]["hub"]
    return hub


def test_qasper_rows_of_the_hub(qa_files: Any, tokenizer: Any, serve_rows: ServeRows, tmp_path: Path) -> None:
    span = qa_files.answer(extractive_spans=["red wine"], evidence=[TEXT])["answer"]
    yes = qa_files.answer(yes_no=True)["answer"]
    answers = [{"answer": [span, yes], "annotation_id": ["a", "b"]}, {"answer": [yes], "annotation_id": ["a"]}]
    questions = {"question": ["what is used", "is it"], "question_id": ["q1", "q2"], "answers": answers}
    sections = {"section_name": ["method", None], "paragraphs": [[TEXT, "of it"], []]}
    columns = {"id": ["p1"], "title": ["title"], "abstract": ["a"], "full_text": [sections], "qas": [questions]}
    requests = serve_rows(columns)
    data = qa_files.qasper(
        tmp_path, dir=None, hub=hub_of("qasper"), splits={"train": "train", "val": None, "test": "dev"}
    )
    data.attach(tokenizer)
    data.setup("test")
    assert requests == [("allenai/qasper", None, "validation", "refs/convert/parquet")], "the files' dev is validation"
    rows = list(data._split("test").rows)
    assert [row["answer_type"] for row in rows] == [0, 1] and data.describe()["source"] == "made up"
    [span] = rows[0]["spans"]
    assert tokenizer.convert_ids_to_tokens(rows[0]["input_ids"][span[0] : span[1] + 1]) == ["red", "wine"]


def test_cuad_rows_of_the_hub(qa_files: Any, tokenizer: Any, serve_rows: ServeRows, tmp_path: Path) -> None:
    answers = [{"text": [text], "answer_start": [TEXT.index(text)]} for text in ("red wine", "german corpus")]
    columns = {
        "id": ["A__Parties_0", "A__Parties_1", "A__Fee_0", "B__Parties_0"],
        "title": ["A", "A", "A", "B"],
        "context": [TEXT] * 4,
        "question": ["which parties", "which parties", "which fee", "which parties"],
        "answers": [*answers, {"text": [], "answer_start": []}, answers[0]],
    }
    requests = serve_rows(columns)
    data = qa_files.cuad(tmp_path, dir=None, hub=hub_of("cuad_spans"), categories=["Parties"], max_length=32)
    data.attach(tokenizer)
    data.setup("test")
    assert requests == [("theatticusproject/cuad-qa", None, "test", "refs/convert/parquet")]
    assert data.describe()["test"] == 2 and data.describe()["questions"]["test"] == 2
    first = next(row for row in data._split("test").rows if row["question"] == [0, 0])
    assert len(first["spans"]) == 2, "one question with both clauses"
