"""QASPER from files: targets, windows, metrics, and unusual or invalid papers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from retention.errors import ConfigError, DataError
from retention.tasks.question_answering.qasper import QasperData

EVIDENCE = "We use BERT and the LSTM baseline."
OTHER = "The corpus is English. It is red wine."
SURE = 0.0
NEVER = -50.0


def paper_of(qa_files: Any, *answers: dict[str, Any], text: str = "What is used?") -> dict[str, Any]:
    return qa_files.paper([OTHER, "", EVIDENCE], qa_files.question(text, *answers))


def loaded(qa_files: Any, tokenizer: Any, folder: Path, *papers: dict[str, Any], **changes: Any) -> QasperData:
    qa_files.write_papers(folder, "test", {f"p{n}": paper for n, paper in enumerate(papers)})
    data = qa_files.qasper(folder, **changes)
    data.attach(tokenizer)
    data.setup("test")
    return data


def rows_of(data: QasperData) -> list[dict[str, Any]]:
    return list(data._split("test").rows)


def target(data: QasperData, row: dict[str, Any]) -> str | None:
    """Return the text of the span that is the training target of a row."""
    [first, last] = row["spans"][0]
    if first < 0:
        return None
    passage = data.read(["test"])["test"][row["question"][0]]["text"]
    document = type("P", (), {"text": passage})
    start, end = data.tokens_of(document).characters((first + row["shift"], last + 1 + row["shift"]))  # type: ignore[arg-type]
    return passage[start:end]


def score(data: QasperData, *answers: tuple[str, str | None]) -> dict[str, float]:
    """Compute the metrics if the head gives these types and texts, question by question, one row each."""
    types, spans, questions = [], [], []
    for row, (kind, text) in zip(rows_of(data), answers, strict=True):
        passage = data._documents["test"][row["question"][0]]["text"]
        document = type("P", (), {"text": passage})
        types.append([SURE if name == kind else NEVER for name in data.label_names])
        span = None
        if text is not None:
            start = passage.index(text)
            span = data.tokens_of(document).tokens((start, start + len(text)))  # type: ignore[arg-type]
        spans.append([] if span is None else [(span[0], span[1] - 1, SURE)])
        questions.append(row["question"])
    return data.compute_metrics("test", {"question": questions, "types": types, "spans": spans})


def test_target_is_the_span_closest_to_the_gold_string(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    spans = qa_files.answer(extractive_spans=["BERT", "BERT and the LSTM"], evidence=[EVIDENCE])
    data = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, spans))
    [row] = rows_of(data)
    assert target(data, row) == "BERT and the LSTM" and row["answer_type"] == 0


@pytest.mark.parametrize("name", ["test.json.gz", "qasper-test-v0.3.json.gz"])
def test_file_names_of_a_split(qa_files: Any, tokenizer: Any, tmp_path: Path, name: str) -> None:
    answer = qa_files.answer(yes_no=True)
    loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, answer))
    (tmp_path / "test.json.gz").rename(tmp_path / name)
    data = qa_files.qasper(tmp_path)
    data.attach(tokenizer)
    data.setup("test")
    assert data.data_files() == [tmp_path / name]


def test_span_is_located_in_its_evidence_first(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    paper = qa_files.paper(
        ["BERT is red.", EVIDENCE],
        qa_files.question("what", qa_files.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])),
    )
    data = loaded(qa_files, tokenizer, tmp_path, paper)
    [row] = rows_of(data)
    text = data._documents["test"][0]["text"]
    assert row["spans"][0][0] + row["shift"] > len(tokenizer("title method BERT is red.")["input_ids"]) - 2
    assert text.index(EVIDENCE) > text.index("BERT is red.")


@pytest.mark.parametrize(("silver_f1", "expected"), [(0.5, "english. It is red wine"), (0.9, None)])
def test_free_form_answer_has_a_silver_target_where_a_span_is_close(
    qa_files: Any, tokenizer: Any, tmp_path: Path, silver_f1: float, expected: str | None
) -> None:
    given = qa_files.answer(free_form_answer="english red wine")
    data = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, given), silver_f1=silver_f1)
    [row] = rows_of(data)
    text = target(data, row)
    assert (text is None) == (expected is None) and row["answer_type"] == 0
    if text is not None:
        assert "red wine" in text


def test_majority_of_annotators_decides_and_windows_without_the_answer_are_none(
    qa_files: Any, tokenizer: Any, tmp_path: Path
) -> None:
    yes = qa_files.answer(yes_no=True, evidence=[EVIDENCE])
    given = (qa_files.answer(unanswerable=True), yes, yes)
    whole = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, *given))
    assert [row["answer_type"] for row in rows_of(whole)] == [1]
    windows = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, *given), max_length=20, stride=6)
    kinds = [row["answer_type"] for row in rows_of(windows)]
    assert kinds[0] == 3 and kinds[-1] == 1 and len(kinds) > 2
    assert windows.describe()["windows"]["test"] == len(kinds) and windows.describe()["test"] == 1


def test_perfect_head_scores_one(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    papers = [
        paper_of(qa_files, qa_files.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])),
        paper_of(qa_files, qa_files.answer(yes_no=False, evidence=[OTHER])),
        paper_of(qa_files, qa_files.answer(unanswerable=True)),
    ]
    data = loaded(qa_files, tokenizer, tmp_path, *papers)
    scores = score(data, ("span", "BERT"), ("no", "English"), ("none", None))
    assert scores["answer_f1"] == scores["evidence_f1"] == scores["extractive_em"] == scores["oracle_f1"] == 1.0
    assert [scores[f"count_{kind}"] for kind in ("extractive", "boolean", "unanswerable")] == [1, 1, 1]


def test_questions_without_a_row_score_zero(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, qa_files.answer(unanswerable=True)))
    assert data.compute_metrics("test", {"question": [], "types": [], "spans": []})["answer_f1"] == 0.0


def test_windows_are_merged(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    given = qa_files.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])
    data = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, given), max_length=20, stride=6)
    rows = rows_of(data)
    token = next(row["spans"][0][0] + row["shift"] for row in rows if row["spans"][0][0] >= 0)
    types = [[math.log(0.1), NEVER, NEVER, math.log(0.9)] for _ in rows]
    spans: list[Sequence[tuple[int, int, float]]] = [[(0, 0, -0.1)] for _ in rows]
    types[-1], spans[-1] = [math.log(0.8), NEVER, NEVER, math.log(0.2)], [(token, token, -0.1)]
    questions = [row["question"] for row in rows]
    scores = data.compute_metrics("test", {"question": questions, "types": types, "spans": spans})
    assert scores["answer_f1"] == 1.0, "one window that is sure is enough, and its span wins"


def test_truncated_answers_lower_the_oracle(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    given = qa_files.answer(extractive_spans=["LSTM baseline"], evidence=[EVIDENCE])
    short = loaded(qa_files, tokenizer, tmp_path, paper_of(qa_files, given), max_length=18)
    scores = score(short, ("none", None))
    assert scores["oracle_f1"] == 0.0 and short.describe()["truncated"]["test"] == 1
    assert rows_of(short)[0]["answer_type"] == 0, "the answer is a span, though nobody can point at it"


def test_unusual_papers_are_read(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    control = "We\u0000 use\u2028 \u2018BERT\u2019 \u0007 naïve 红酒 wine"
    papers = [
        qa_files.paper([], title="", abstract=""),  # no question
        qa_files.paper(
            [], qa_files.question("what", qa_files.answer(unanswerable=True)), title="", full_text=[]
        ),  # no text
        qa_files.paper(
            [control], qa_files.question("which", qa_files.answer(extractive_spans=["naïve 红酒"], evidence=[control]))
        ),
        qa_files.paper(
            ["x"], qa_files.question("what " * 30, qa_files.answer(extractive_spans=[" "]))
        ),  # nothing to find
    ]
    papers[1]["full_text"] = [{"section_name": None, "paragraphs": []}]
    data = loaded(qa_files, tokenizer, tmp_path, *papers)
    assert data.describe()["test"] == 3 and data.describe()["questions_cut"]["test"] == 1
    batch = data.collator()(rows_of(data))
    assert batch["context"][0, 0] == batch["context"][0, 1], "an empty text has an empty row"
    scores = score(data, ("span", None), ("span", "naïve 红酒"), ("none", None))
    assert scores["f1_extractive"] == pytest.approx(0.5) and scores["f1_unanswerable"] == 0.0


def test_batches_have_the_documented_tensors(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    given = qa_files.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])
    data = loaded(
        qa_files, tokenizer, tmp_path, paper_of(qa_files, given), qa_files.paper(["x"], qa_files.question("it", given))
    )
    batch = next(iter(data.test_dataloader()))
    first = batch["context"][:, 0]
    assert batch["global_mask"].sum(1).tolist() == first.tolist(), "the first token and the question"
    assert (batch["protected_mask"] >= batch["global_mask"]).all()
    assert batch["index"].tolist() == [0, 1] and batch["question"].tolist() == [[0, 0], [1, 0]]
    assert data.example(0).startswith("What is used?\n\nA title")


def test_training_papers_are_lengthened_and_balanced(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    papers = {
        f"p{n}": qa_files.paper(
            [f"wine {n} one", f"red BERT {n}", *[f"data corpus {n} {k}" for k in range(4)]],
            qa_files.question("what", qa_files.answer(extractive_spans=[f"BERT {n}"], evidence=[f"red BERT {n}"])),
        )
        for n in range(6)
    }
    qa_files.write_papers(tmp_path, "train", papers)
    settings = {"distractor_tokens": 60, "max_length": 24, "stride": 8, "val_size": 2}
    data = qa_files.qasper(tmp_path, negatives=1.0, **settings)
    data.attach(tokenizer)
    first = data.read(["train"])["train"]
    assert first["text"] == data.read(["train"])["train"]["text"], "the same in every run"
    for text, passage in zip(first["text"], first["passage"], strict=True):
        number = json.loads(passage)["id"].removeprefix("p")
        assert (
            text.index(f"wine {number} one") < text.index(f"red BERT {number}") < text.index(f"data corpus {number} 0")
        )
        assert 50 <= len(tokenizer(text)["input_ids"]) - 2 <= 60
    data.setup("fit")
    kinds = data._split("train").rows["answer_type"][:]
    assert kinds.count(3) == kinds.count(0) > 0
    assert data._split("val").rows["answer_type"][:].count(3) > data._split("val").rows["answer_type"][:].count(0)
    assert "60 tokens" in data.describe()["source"]


def test_invalid_files_raise_with_location(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    good = qa_files.question("what", qa_files.answer(yes_no=True))
    yes_no = r"test\.json, paper p, question 2: 'yes_no' of an answer must be true, false or null, got 'no'"
    broken: list[tuple[Any, str]] = [
        ([], "an object of papers"),
        ({"p": {"title": "x"}}, "paper p: has no 'abstract'"),
        ({"p": qa_files.paper([3], good)}, "paper p: every paragraph"),
        ({"p": qa_files.paper(["x"], qa_files.question("what"))}, "paper p, question 1: has no reference answer"),
        ({"p": qa_files.paper(["x"], qa_files.question("what", qa_files.answer()))}, "an answer cannot be used"),
        ({"p": qa_files.paper(["x \ud800"], good)}, "half a character"),
        ({"p": qa_files.paper(["x"], good, qa_files.question("is it", qa_files.answer(yes_no="no")))}, yes_no),
        ({"p": qa_files.paper(["x"], good, full_text={"section_name": ["a"], "paragraphs": []})}, "equally long lists"),
        ({"p": qa_files.paper(["x"])}, "has no question"),
    ]
    for content, message in broken:
        (tmp_path / "test.json").write_text(json.dumps(content))
        data = qa_files.qasper(tmp_path)
        data.attach(tokenizer)
        with pytest.raises(DataError, match=message):
            data.setup("test")
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(DataError, match=r"test\.json: broken JSON"):
        data.setup("test")
    (tmp_path / "test.json").unlink()
    (tmp_path / "test.json.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="not a readable gzip file"):
        data.setup("test")


@pytest.mark.parametrize(
    ("key", "value"),
    [("silver_f1", 0.0), ("negatives", 1.0), ("max_question_length", 40), ("distractor_tokens", 0)],
)
def test_invalid_setting_raises_with_its_key(qa_files: Any, tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        qa_files.qasper(tmp_path, **{key: value})
    assert [problem.key for problem in caught.value.problems] == [key]


def test_oracle_and_constant_answer_scores(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    papers = [
        paper_of(qa_files, qa_files.answer(yes_no=True)),
        paper_of(qa_files, qa_files.answer(yes_no=True), qa_files.answer(unanswerable=True)),
        paper_of(qa_files, qa_files.answer(extractive_spans=["BERT"])),
    ]
    data = loaded(qa_files, tokenizer, tmp_path, *papers, local_note="made-up papers")
    scores = score(data, ("yes", None), ("yes", None), ("yes", None))
    assert scores["fixed_f1"] == scores["answer_f1"] == pytest.approx(2 / 3) and scores["oracle_f1"] == 1.0
    assert data.describe()["source"] == "made-up papers"
