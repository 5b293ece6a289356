"""QASPER from files: targets, windows, grading, and papers that are odd or broken."""

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


def paper_of(made: Any, *answers: dict[str, Any], text: str = "What is used?") -> dict[str, Any]:
    return made.paper([OTHER, "", EVIDENCE], made.question(text, *answers))


def loaded(made: Any, tokenizer: Any, folder: Path, *papers: dict[str, Any], **changes: Any) -> QasperData:
    made.write_papers(folder, "test", {f"p{n}": paper for n, paper in enumerate(papers)})
    data = made.qasper(folder, **changes)
    data.attach(tokenizer)
    data.setup("test")
    return data


def rows_of(data: QasperData) -> list[dict[str, Any]]:
    return list(data._split("test").rows)


def target(data: QasperData, row: dict[str, Any]) -> str | None:
    """The text that a row is trained to point at."""
    [first, last] = row["spans"][0]
    if first < 0:
        return None
    passage = data.read(["test"])["test"][row["question"][0]]["text"]
    document = type("P", (), {"text": passage})
    start, behind = data.tokens_of(document).characters((first + row["shift"], last + 1 + row["shift"]))  # type: ignore[arg-type]
    return passage[start:behind]


def says(data: QasperData, *found: tuple[str, str | None]) -> dict[str, float]:
    """The metrics if the head gives these types and texts, question by question, one row each."""
    types, spans, questions = [], [], []
    for row, (kind, text) in zip(rows_of(data), found, strict=True):
        passage = data._documents["test"][row["question"][0]]["text"]
        document = type("P", (), {"text": passage})
        types.append([SURE if name == kind else NEVER for name in data.label_names])
        place = None
        if text is not None:
            start = passage.index(text)
            place = data.tokens_of(document).tokens((start, start + len(text)))  # type: ignore[arg-type]
        spans.append([] if place is None else [(place[0], place[1] - 1, SURE)])
        questions.append(row["question"])
    return data.judge("test", {"question": questions, "types": types, "spans": spans})


def test_the_span_closest_to_the_gold_string_is_the_target(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    spans = made.answer(extractive_spans=["BERT", "BERT and the LSTM"], evidence=[EVIDENCE])
    data = loaded(made, tokenizer, tmp_path, paper_of(made, spans))
    [row] = rows_of(data)
    assert target(data, row) == "BERT and the LSTM" and row["answer_type"] == 0


def test_a_span_is_looked_for_in_its_evidence_first(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    paper = made.paper(
        ["BERT is red.", EVIDENCE], made.question("what", made.answer(extractive_spans=["BERT"], evidence=[EVIDENCE]))
    )
    data = loaded(made, tokenizer, tmp_path, paper)
    [row] = rows_of(data)
    text = data._documents["test"][0]["text"]
    assert row["spans"][0][0] + row["shift"] > len(tokenizer("title method BERT is red.")["input_ids"]) - 2
    assert text.index(EVIDENCE) > text.index("BERT is red.")


@pytest.mark.parametrize(("least", "expected"), [(0.5, "english. It is red wine"), (0.9, None)])
def test_free_text_has_a_silver_target_where_it_is_close(
    made: Any, tokenizer: Any, tmp_path: Path, least: float, expected: str | None
) -> None:
    given = made.answer(free_form_answer="english red wine")
    data = loaded(made, tokenizer, tmp_path, paper_of(made, given), silver_f1=least)
    [row] = rows_of(data)
    found = target(data, row)
    assert (found is None) == (expected is None) and row["answer_type"] == 0
    if found is not None:
        assert "red wine" in found


def test_most_annotators_decide_and_windows_without_the_answer_say_none(
    made: Any, tokenizer: Any, tmp_path: Path
) -> None:
    yes = made.answer(yes_no=True, evidence=[EVIDENCE])
    given = (made.answer(unanswerable=True), yes, yes)
    whole = loaded(made, tokenizer, tmp_path, paper_of(made, *given))
    assert [row["answer_type"] for row in rows_of(whole)] == [1]
    windows = loaded(made, tokenizer, tmp_path, paper_of(made, *given), max_length=20, stride=6)
    kinds = [row["answer_type"] for row in rows_of(windows)]
    assert kinds[0] == 3 and kinds[-1] == 1 and len(kinds) > 2
    assert windows.describe()["windows"]["test"] == len(kinds) and windows.describe()["test"] == 1


def test_a_perfect_head_gets_every_point(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    papers = [
        paper_of(made, made.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])),
        paper_of(made, made.answer(yes_no=False, evidence=[OTHER])),
        paper_of(made, made.answer(unanswerable=True)),
    ]
    data = loaded(made, tokenizer, tmp_path, *papers)
    found = says(data, ("span", "BERT"), ("no", "English"), ("none", None))
    assert found["answer_f1"] == found["evidence_f1"] == found["extractive_em"] == found["oracle_f1"] == 1.0
    assert [found[f"count_{kind}"] for kind in ("extractive", "boolean", "unanswerable")] == [1, 1, 1]


def test_questions_without_a_row_score_nothing(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = loaded(made, tokenizer, tmp_path, paper_of(made, made.answer(unanswerable=True)))
    assert data.judge("test", {"question": [], "types": [], "spans": []})["answer_f1"] == 0.0


def test_windows_are_put_together(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    given = made.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])
    data = loaded(made, tokenizer, tmp_path, paper_of(made, given), max_length=20, stride=6)
    rows = rows_of(data)
    place = next(row["spans"][0][0] + row["shift"] for row in rows if row["spans"][0][0] >= 0)
    types = [[math.log(0.1), NEVER, NEVER, math.log(0.9)] for _ in rows]
    spans: list[Sequence[tuple[int, int, float]]] = [[(0, 0, -0.1)] for _ in rows]
    types[-1], spans[-1] = [math.log(0.8), NEVER, NEVER, math.log(0.2)], [(place, place, -0.1)]
    questions = [row["question"] for row in rows]
    found = data.judge("test", {"question": questions, "types": types, "spans": spans})
    assert found["answer_f1"] == 1.0, "one window that is sure is enough, and its span wins"


def test_what_lies_behind_the_cut_lowers_the_ceiling(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    given = made.answer(extractive_spans=["LSTM baseline"], evidence=[EVIDENCE])
    short = loaded(made, tokenizer, tmp_path, paper_of(made, given), max_length=18)
    found = says(short, ("none", None))
    assert found["oracle_f1"] == 0.0 and short.describe()["truncated"]["test"] == 1
    assert rows_of(short)[0]["answer_type"] == 0, "the answer is a span, though nobody can point at it"


def test_odd_papers(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    control = "We\u0000 use\u2028 \u2018BERT\u2019 \u0007 naïve 红酒 wine"
    papers = [
        made.paper([], title="", abstract=""),  # no question
        made.paper([], made.question("what", made.answer(unanswerable=True)), title="", full_text=[]),  # no text
        made.paper([control], made.question("which", made.answer(extractive_spans=["naïve 红酒"], evidence=[control]))),
        made.paper(["x"], made.question("what " * 30, made.answer(extractive_spans=[" "]))),  # nothing to find
    ]
    papers[1]["full_text"] = [{"section_name": None, "paragraphs": []}]
    data = loaded(made, tokenizer, tmp_path, *papers)
    assert data.describe()["test"] == 3 and data.describe()["questions_cut"]["test"] == 1
    batch = data.collator()(rows_of(data))
    assert batch["context"][0, 0] == batch["context"][0, 1], "an empty text has an empty row"
    found = says(data, ("span", None), ("span", "naïve 红酒"), ("none", None))
    assert found["f1_extractive"] == pytest.approx(0.5) and found["f1_unanswerable"] == 0.0


def test_batches(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    given = made.answer(extractive_spans=["BERT"], evidence=[EVIDENCE])
    data = loaded(made, tokenizer, tmp_path, paper_of(made, given), made.paper(["x"], made.question("it", given)))
    batch = next(iter(data.test_dataloader()))
    first = batch["context"][:, 0]
    assert batch["global_mask"].sum(1).tolist() == first.tolist(), "the first token and the question"
    assert (batch["protected_mask"] >= batch["global_mask"]).all()
    assert batch["index"].tolist() == [0, 1] and batch["question"].tolist() == [[0, 0], [1, 0]]
    assert data.example(0).startswith("What is used?\n\nA title")


def test_training_papers_can_be_lengthened_and_balanced(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    papers = {
        f"p{n}": made.paper(
            [f"wine {n} one", f"red BERT {n}", *[f"data corpus {n} {k}" for k in range(4)]],
            made.question("what", made.answer(extractive_spans=[f"BERT {n}"], evidence=[f"red BERT {n}"])),
        )
        for n in range(6)
    }
    made.write_papers(tmp_path, "train", papers)
    settings = {"distractor_tokens": 60, "max_length": 24, "stride": 8, "val_size": 2}
    data = made.qasper(tmp_path, negatives=1.0, **settings)
    data.attach(tokenizer)
    first = data.read(["train"])["train"]
    assert first["text"] == data.read(["train"])["train"]["text"], "the same in every run"
    for text, passage in zip(first["text"], first["passage"], strict=True):
        own = json.loads(passage)["id"].removeprefix("p")
        assert text.index(f"wine {own} one") < text.index(f"red BERT {own}") < text.index(f"data corpus {own} 0")
        assert 50 <= len(tokenizer(text)["input_ids"]) - 2 <= 60
    data.setup("fit")
    kinds = data._split("train").rows["answer_type"][:]
    assert kinds.count(3) == kinds.count(0) > 0
    assert data._split("val").rows["answer_type"][:].count(3) > data._split("val").rows["answer_type"][:].count(0)
    assert "60 tokens" in data.describe()["source"]


def test_broken_files_are_named(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    good = made.question("what", made.answer(yes_no=True))
    broken: list[tuple[Any, str]] = [
        ([], "an object of papers"),
        ({"p": {"title": "x"}}, "paper p: has no 'abstract'"),
        ({"p": made.paper([3], good)}, "paper p: every paragraph"),
        ({"p": made.paper(["x"], made.question("what"))}, "paper p, question 1: has no answer"),
        ({"p": made.paper(["x"], made.question("what", made.answer()))}, "an answer cannot be used"),
        ({"p": made.paper(["x \ud800"], good)}, "half a character"),
        ({"p": made.paper(["x"])}, "has no question"),
    ]
    for content, message in broken:
        (tmp_path / "test.json").write_text(json.dumps(content))
        data = made.qasper(tmp_path)
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


def test_bad_settings(made: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        made.qasper(tmp_path, silver_f1=0.0, negatives=1.0, max_question_length=40, distractor_tokens=0)
    keys = {problem.key for problem in caught.value.problems}
    assert {"silver_f1", "negatives", "distractor_tokens"} <= keys


def test_marks_to_read_the_score_by(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    papers = [
        paper_of(made, made.answer(yes_no=True)),
        paper_of(made, made.answer(yes_no=True), made.answer(unanswerable=True)),
        paper_of(made, made.answer(extractive_spans=["BERT"])),
    ]
    data = loaded(made, tokenizer, tmp_path, *papers, local_note="made-up papers")
    scores = says(data, ("yes", None), ("yes", None), ("yes", None))
    assert scores["fixed_f1"] == scores["answer_f1"] == pytest.approx(2 / 3) and scores["oracle_f1"] == 1.0
    assert data.describe()["source"] == "made-up papers"
