"""CUAD's contracts from files: windows, balance, grading, and files that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.tasks.question_answering.cuad_spans import CuadSpanData

TEXT = "it is the english law and we use the red wine of the german corpus in the data of results"


def loaded(made: Any, tokenizer: Any, folder: Path, stage: str = "test", **changes: Any) -> CuadSpanData:
    data: CuadSpanData = made.cuad(folder, **changes)
    data.attach(tokenizer)
    data.setup(stage)
    return data


def found(data: CuadSpanData, texts: dict[int, dict[str, float]]) -> dict[str, float]:
    """Metrics if the head proposes these texts with these log-probabilities, by question."""
    rows: dict[str, list[Any]] = {"question": [], "types": [], "spans": []}
    for place, proposed in texts.items():
        document = type("P", (), {"text": TEXT})
        tokens = data.tokens_of(document)  # type: ignore[arg-type]
        spans = []
        for text, score in proposed.items():
            first, behind = tokens.tokens((TEXT.index(text), TEXT.index(text) + len(text))) or (0, 0)
            spans.append((first, behind - 1, score))
        rows["question"].append([0, place])
        rows["types"].append([0.0, -50.0, -50.0, -50.0])
        rows["spans"].append(spans)
    return data.judge("test", rows)


def test_all_windows_are_tested_and_clauses_are_marked(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    made.write_contracts(tmp_path, "test", made.contract("c", TEXT, law=["english law", "german corpus"], none=[]))
    data = loaded(made, tokenizer, tmp_path)
    rows = list(data._split("test").rows)
    kinds = {place: [row["answer_type"] for row in rows if row["question"][1] == place] for place in (0, 1)}
    assert set(kinds[1]) == {3} and {0, 3} >= set(kinds[0]) and 0 in kinds[0] and len(kinds[0]) == len(kinds[1]) > 2
    ids = [token for row in rows for a, b in row["spans"] if a >= 0 for token in row["input_ids"][a : b + 1]]
    assert set(tokenizer.convert_ids_to_tokens(ids)) <= {"english", "[UNK]", "german", "corpus"}
    assert data.describe()["questions"]["test"] == 2


def test_grading(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    made.write_contracts(tmp_path, "test", made.contract("c", TEXT, law=["english law"], Parties=["wine"], none=[]))
    data = loaded(made, tokenizer, tmp_path)
    right = found(data, {0: {"english law": -0.01}, 1: {"we use the red wine": -0.02}, 2: {}})
    assert right["aupr"] == pytest.approx(1.0) and right["recall_ceiling"] == 1.0
    assert [right[f"count_{name}"] for name in ("clauses", "answerable", "unanswerable")] == [2, 2, 1]
    half = found(data, {0: {"english law": -0.5}, 1: {"german": -0.1}, 2: {"data": -0.1}})
    assert 0.0 < half["aupr"] < 0.5


def test_a_contract_without_any_clause(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    contracts = [made.contract("c", TEXT, law=[]), made.contract("d", "", law=[])]
    for split in ("train", "test"):
        made.write_contracts(tmp_path, split, *contracts)
    data = loaded(made, tokenizer, tmp_path)
    scores = data.judge("test", {"question": [], "types": [], "spans": []})
    assert scores["aupr"] == 0.0 and scores["count_clauses"] == 0 and "recall_ceiling" not in scores
    trained = loaded(made, tokenizer, tmp_path, "fit")
    assert len(trained._split("train").rows) == 1, "one window stays, so that there is something to learn from"


def test_training_is_balanced_by_contract(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    contracts = [made.contract(f"c{n}", TEXT, law=["english law"], none=[], no=[]) for n in range(3)]
    made.write_contracts(tmp_path, "train", *contracts)
    kinds = loaded(made, tokenizer, tmp_path, "fit", negatives=2.0)._split("train").rows["answer_type"][:]
    assert kinds.count(3) == 2 * kinds.count(0) > 0
    everything = loaded(made, tokenizer, tmp_path, "fit", negatives=None)._split("train").rows
    assert len(everything) > len(kinds)


def test_a_limit_cuts_and_lowers_the_ceiling(made: Any, tokenizer: Any, tmp_path: Path, caplog: Any) -> None:
    made.write_contracts(tmp_path, "test", made.contract("c", TEXT, law=["english law", "german corpus"]))
    data = loaded(made, tokenizer, tmp_path, max_document_length=9)
    assert found(data, {})["recall_ceiling"] == 0.5
    assert any(
        "longer than max_document_length=9 tokens and were cut" in record.getMessage() for record in caplog.records
    )


def test_categories_choose_questions(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    made.write_contracts(tmp_path, "test", made.contract("c", TEXT, law=["english law"], Parties=["wine"]))
    assert loaded(made, tokenizer, tmp_path, categories=["Parties"]).describe()["questions"]["test"] == 1
    with pytest.raises(DataError, match="no question of the categories Wine"):
        loaded(made, tokenizer, tmp_path, categories=["Wine"])


def test_a_misplaced_clause_is_named(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    contract = made.contract("c", TEXT, law=["english law"])
    contract["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    (tmp_path / "test.json").write_text(json.dumps({"data": [contract]}))
    with pytest.raises(
        DataError, match=r"document 1 \(c\), paragraph 1, question 1, answer 1: 'english law' is not at"
    ):
        loaded(made, tokenizer, tmp_path)


def test_a_question_asked_once_per_answer_is_one_question(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The published training file numbers its questions: <title>__<category>_0, _1, ..."""
    contract = made.contract("c", TEXT, law=["english law"], none=[])
    [paragraph] = contract["paragraphs"]
    asked, other = paragraph["qas"]
    start = TEXT.index("german corpus")
    second = {**asked, "id": "c__law_1", "answers": [{"text": "german corpus", "answer_start": start}]}
    paragraph["qas"] = [{**asked, "id": "c__law_0"}, second, {**other, "id": "c__none_0"}]
    (tmp_path / "test.json").write_text(json.dumps({"data": [contract]}))
    data = loaded(made, tokenizer, tmp_path, categories=["law"])
    assert data.describe()["questions"]["test"] == 1
    scores = found(data, {0: {"english law": -0.01, "german corpus": -0.02}})
    assert (scores["aupr"], scores["count_clauses"]) == (pytest.approx(1.0), 2)


def test_what_was_done_to_the_contracts_is_in_the_record(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    made.write_contracts(tmp_path, "test", made.contract("c", TEXT, law=["english law"]))
    settings = {"max_document_length": 9, "categories": ["law"], "local_note": "made-up contracts"}
    described = loaded(made, tokenizer, tmp_path, **settings).describe()
    assert described["source"] == "made-up contracts; the first 9 tokens of each; 1 of the kinds of clauses"
    assert described["truncated"]["test"] == 1, "one contract, whatever its windows"
