"""CUAD's clauses: distinct spans with sets of categories, split by contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from retention.errors import ConfigError, DataError
from retention.tasks.classification.cuad_clauses import CuadClauseData, surroundings

NAMES = ["Parties", "Fee", "Term_2"]
MakeData = Callable[..., CuadClauseData]


def contract(title: str, context: str, **spans: list[str]) -> dict[str, Any]:
    """Build a contract whose categories have these texts as answers, each where it first occurs."""
    qas = [
        {
            "id": f"{title}__{name}",
            "question": name,
            "answers": [{"text": text, "answer_start": context.index(text)} for text in spans.get(name, [])],
        }
        for name in NAMES
    ]
    return {"title": title, "paragraphs": [{"context": context, "qas": qas}]}


def write(folder: Path, split: str, *contracts: dict[str, Any]) -> None:
    (folder / f"{split}.json").write_text(json.dumps({"data": contracts}))


@pytest.fixture
def make(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> MakeData:
    def build(**overrides: Any) -> CuadClauseData:
        settings: dict[str, Any] = {
            "name": "clauses",
            "source_note": "made-up clauses",
            "hub": None,
            "dir": str(tmp_path),
            "label_names": NAMES,
            "max_length": 16,
            "splits": {"train": "train", "val": None, "test": "test"},
            "train_size": None,
            "val_size": 2,
            "test_size": None,
            "batch_size": 4,
            "eval_batch_size": 4,
            "seed": 0,
        }
        data = CuadClauseData(**{**settings, **overrides})
        data.attach(tokenizer)
        return data

    return build


def test_clause_is_a_distinct_span_with_all_its_categories(tmp_path: Path, make: MakeData) -> None:
    text = "one \x00 Ltd. and two Inc. pay \U0001f40e ten for ever"
    write(
        tmp_path,
        "test",
        contract("a__b", text, Parties=["two Inc.", "one \x00 Ltd."], Fee=["ten", "two Inc."], Term_2=["ten for ever"]),
        contract("empty", "nothing of interest"),
    )
    data = make()
    rows = data.read(["test"])["test"]
    assert list(rows["text"]) == ["one \x00 Ltd.", "two Inc.", "ten", "ten for ever"]
    assert list(rows["labels"]) == [[0], [0, 1], [1], [2]]
    data.setup("test")
    [batch] = list(data.test_dataloader())
    order = batch["index"].tolist()
    assert batch["labels"].dtype == torch.float32
    expected = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert batch["labels"].tolist() == [expected[index] for index in order]
    assert data.example(1) == "two Inc." and data.head() == {"num_labels": 3}
    described = data.describe()
    assert described["test"] == 4 and described["contracts"] == {"train": None, "val": None, "test": 2}


def test_no_contract_is_in_two_splits(tmp_path: Path, make: MakeData) -> None:
    contracts = [contract(f"c{n}", f"party{n} pays fee{n}", Parties=[f"party{n}"], Fee=[f"fee{n}"]) for n in range(9)]
    write(tmp_path, "train", *contracts)
    rows = make(train_size=5).read(["train", "val"])
    sides = {split: {text.strip("partyfe") for text in split_rows["text"]} for split, split_rows in rows.items()}
    assert len(sides["train"]) == 5 and len(sides["val"]) == 2 and not sides["train"] & sides["val"]
    assert all(len(split_rows) == 2 * len(sides[split]) for split, split_rows in rows.items()), "whole contracts"
    other = make(train_size=5, seed=1).read(["train", "val"])
    assert list(other["val"]["text"]) == list(rows["val"]["text"]) and other["train"]["text"] != rows["train"]["text"]


def test_numbered_questions_of_the_published_training_file(tmp_path: Path, make: MakeData) -> None:
    document = contract("a", "one and ten for ever", Parties=["one"], Term_2=["for ever"])
    for question in document["paragraphs"][0]["qas"]:
        question["id"] += "_0"
    write(tmp_path, "test", document)
    assert list(make().read(["test"])["test"]["labels"]) == [[0], [2]]
    assert list(make(label_names=["Parties", "Fee", "Term_2_0"]).read(["test"])["test"]["labels"]) == [[0], [2]]


def test_unknown_category_raises_with_question_id(tmp_path: Path, make: MakeData) -> None:
    write(tmp_path, "test", contract("a", "one", Parties=["one"]))
    with pytest.raises(DataError, match="question id 'a__Fee'"):
        make(label_names=["Parties", "Cost"]).read(["test"])


def test_contracts_without_any_clause_raise(tmp_path: Path, make: MakeData) -> None:
    write(tmp_path, "test", contract("a", "one"), contract("b", "two"))
    with pytest.raises(DataError, match="clauses test: none of 2 contracts has a clause"):
        make().read(["test"])


def test_surrounding_words_are_a_second_text(tmp_path: Path, make: MakeData) -> None:
    write(tmp_path, "test", contract("a", "one two three four five six", Fee=["three"]))
    plain, wide = make(), make(surrounding_words=1)
    for data in (plain, wide):
        data.setup("test")
    rows = [next(iter(data.test_dataloader())) for data in (plain, wide)]
    assert [int(row["attention_mask"].sum()) for row in rows] == [3, 7], "[CLS] three [SEP] and two three four [SEP]"
    assert rows[1]["protected_mask"].tolist() == [[True, False, True, False, False, False, True]]
    assert wide.example(0) == "three"


@pytest.mark.parametrize(
    ("words", "passage"),
    [(0, "c d"), (1, "b\n c d  e"), (2, "a b\n c d  e f"), (9, "a b\n c d  e f")],
)
def test_surroundings_reach_n_words_to_each_side(words: int, passage: str) -> None:
    context = " a b\n c d  e f "
    start = context.index("c")
    assert surroundings(context, start, start + 3, words) == passage


@pytest.mark.parametrize(("key", "value"), [("surrounding_words", -1), ("val_size", None), ("label_names", "ab")])
def test_invalid_setting_raises_with_its_key(make: MakeData, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{key: value})
    assert [problem.key for problem in raised.value.problems] == [key]
