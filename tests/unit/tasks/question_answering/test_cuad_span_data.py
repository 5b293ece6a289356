"""CUAD's contracts from files: windows, balance of training rows, metrics, and invalid files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.tasks.question_answering.cuad_spans import CuadSpanData

TEXT = "it is the english law and we use the red wine of the german corpus in the data of results"


def loaded(qa_files: Any, tokenizer: Any, folder: Path, stage: str = "test", **changes: Any) -> CuadSpanData:
    data: CuadSpanData = qa_files.cuad(folder, **changes)
    data.attach(tokenizer)
    data.setup(stage)
    return data


def score(data: CuadSpanData, proposals: dict[int, dict[str, float]]) -> dict[str, float]:
    """Compute the metrics if the head proposes these texts with these log-probabilities, by question."""
    rows: dict[str, list[Any]] = {"question": [], "types": [], "spans": []}
    for index, proposed in proposals.items():
        document = type("P", (), {"text": TEXT})
        tokens = data.tokens_of(document)  # type: ignore[arg-type]
        spans = []
        for text, log_prob in proposed.items():
            start, end = tokens.tokens((TEXT.index(text), TEXT.index(text) + len(text))) or (0, 0)
            spans.append((start, end - 1, log_prob))
        rows["question"].append([0, index])
        rows["types"].append([0.0, -50.0, -50.0, -50.0])
        rows["spans"].append(spans)
    return data.compute_metrics("test", rows)


def test_test_split_has_all_windows_with_clauses_marked(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    qa_files.write_contracts(
        tmp_path, "test", qa_files.contract("c", TEXT, law=["english law", "german corpus"], none=[])
    )
    data = loaded(qa_files, tokenizer, tmp_path)
    rows = list(data._split("test").rows)
    types = {index: [row["answer_type"] for row in rows if row["question"][1] == index] for index in (0, 1)}
    assert set(types[1]) == {3} and {0, 3} >= set(types[0]) and 0 in types[0] and len(types[0]) == len(types[1]) > 2
    ids = [token for row in rows for a, b in row["spans"] if a >= 0 for token in row["input_ids"][a : b + 1]]
    assert set(tokenizer.convert_ids_to_tokens(ids)) <= {"english", "[UNK]", "german", "corpus"}
    assert data.describe()["questions"]["test"] == 2
    assert [file.name for file in data.data_files()] == ["test.json"]


def test_metrics_of_known_proposals(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    qa_files.write_contracts(
        tmp_path, "test", qa_files.contract("c", TEXT, law=["english law"], Parties=["wine"], none=[])
    )
    data = loaded(qa_files, tokenizer, tmp_path)
    right = score(data, {0: {"english law": -0.01}, 1: {"we use the red wine": -0.02}, 2: {}})
    assert right["aupr"] == pytest.approx(1.0) and right["recall_ceiling"] == 1.0
    assert [right[f"count_{name}"] for name in ("clauses", "answerable", "unanswerable")] == [2, 2, 1]
    half = score(data, {0: {"english law": -0.5}, 1: {"german": -0.1}, 2: {"data": -0.1}})
    assert 0.0 < half["aupr"] < 0.5


def test_contract_without_any_clause(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    contracts = [qa_files.contract("c", TEXT, law=[]), qa_files.contract("d", "", law=[])]
    for split in ("train", "test"):
        qa_files.write_contracts(tmp_path, split, *contracts)
    with pytest.raises(DataError, match="no question of test has an answer, so precision and recall are not defined"):
        loaded(qa_files, tokenizer, tmp_path)
    trained = loaded(qa_files, tokenizer, tmp_path, "fit")
    assert len(trained._split("train").rows) == 1, "one window stays, so that there is something to learn from"


def test_training_rows_are_balanced_by_contract(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    contracts = [qa_files.contract(f"c{n}", TEXT, law=["english law"], none=[], no=[]) for n in range(3)]
    qa_files.write_contracts(tmp_path, "train", *contracts)
    kinds = loaded(qa_files, tokenizer, tmp_path, "fit", negatives=2.0)._split("train").rows["answer_type"][:]
    assert kinds.count(3) == 2 * kinds.count(0) > 0
    everything = loaded(qa_files, tokenizer, tmp_path, "fit", negatives=None)._split("train").rows
    assert len(everything) > len(kinds)


def test_max_document_length_truncates_and_lowers_the_recall_ceiling(
    qa_files: Any, tokenizer: Any, tmp_path: Path, caplog: Any
) -> None:
    qa_files.write_contracts(tmp_path, "test", qa_files.contract("c", TEXT, law=["english law", "german corpus"]))
    data = loaded(qa_files, tokenizer, tmp_path, max_document_length=9)
    assert score(data, {})["recall_ceiling"] == 0.5
    assert any(
        "longer than max_document_length=9 tokens and were truncated" in record.getMessage()
        for record in caplog.records
    )


def test_categories_select_questions(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    qa_files.write_contracts(tmp_path, "test", qa_files.contract("c", TEXT, law=["english law"], Parties=["wine"]))
    assert loaded(qa_files, tokenizer, tmp_path, categories=["Parties"]).describe()["questions"]["test"] == 1
    message = r"no question of test is of the categories 'Partys' \(did you mean 'Parties'\?\), 'Wine'; correct"
    with pytest.raises(DataError, match=message):
        loaded(qa_files, tokenizer, tmp_path, categories=["law", "Partys", "Wine"])


def test_clause_at_wrong_position_raises_with_location(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    contract = qa_files.contract("c", TEXT, law=["english law"])
    contract["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    (tmp_path / "test.json").write_text(json.dumps({"data": [contract]}))
    with pytest.raises(
        DataError, match=r"document 1 \(c\), paragraph 1, question 1, answer 1: 'english law' is not at"
    ):
        loaded(qa_files, tokenizer, tmp_path)


def test_repeated_questions_are_merged(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The published training file numbers repeated questions: <title>__<category>_0, _1, ..."""
    contract = qa_files.contract("c", TEXT, law=["english law"], none=[])
    [paragraph] = contract["paragraphs"]
    repeated, other = paragraph["qas"]
    start = TEXT.index("german corpus")
    second = {**repeated, "id": "c__law_1", "answers": [{"text": "german corpus", "answer_start": start}]}
    paragraph["qas"] = [{**repeated, "id": "c__law_0"}, second, {**other, "id": "c__none_0"}]
    (tmp_path / "test.json").write_text(json.dumps({"data": [contract]}))
    data = loaded(qa_files, tokenizer, tmp_path, categories=["law"])
    assert data.describe()["questions"]["test"] == 1
    scores = score(data, {0: {"english law": -0.01, "german corpus": -0.02}})
    assert (scores["aupr"], scores["count_clauses"]) == (pytest.approx(1.0), 2)


def test_description_names_the_changes_to_the_contracts(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    qa_files.write_contracts(tmp_path, "test", qa_files.contract("c", TEXT, law=["english law"]))
    settings = {"max_document_length": 9, "categories": ["law"], "local_note": "made-up contracts"}
    described = loaded(qa_files, tokenizer, tmp_path, **settings).describe()
    assert described["source"] == "made-up contracts; the first 9 tokens of each; 1 of the kinds of clauses"
    assert described["truncated"]["test"] == 1, "one contract, whatever its windows"
