"""SQuAD's layout as a task: windows, answers that may be missing, official scores, and invalid files."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from torchmetrics.functional.text import squad as official_squad

from retention.data.answer_text import answer_scores
from retention.errors import ConfigError, DataError
from retention.tasks.question_answering.passages import passages_of
from retention.tasks.question_answering.squad import SquadData, best_threshold
from retention.tasks.question_answering.squad_metrics import SquadScore

TEXT = "it is the english law and we use the red wine of the german corpus in the data of results"


def paragraph(text: str = TEXT, **answers: list[str]) -> dict[str, Any]:
    qas = [
        {
            "id": name,
            "question": f"which {name}",
            "answers": [{"text": each, "answer_start": text.index(each)} for each in texts],
            "is_impossible": not texts,
        }
        for name, texts in answers.items()
    ]
    return {"context": text, "qas": qas}


def write(folder: Path, name: str, *paragraphs: dict[str, Any]) -> None:
    content = json.dumps({"version": "v2.0", "data": [{"title": "A", "paragraphs": list(paragraphs)}]}).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def loaded(qa_files: Any, tokenizer: Any, folder: Path, stage: str = "test", **changes: Any) -> SquadData:
    settings = {"name": "squad", "dir": str(folder), "max_length": 16, "max_question_length": 4, "stride": 4}
    data = SquadData(**{**qa_files.shared, **settings, **changes})
    data.attach(tokenizer)
    data.setup(stage)
    return data


def rows(data: SquadData, windows: dict[int, list[tuple[str | None, list[float]]]]) -> dict[str, list[Any]]:
    """Build head outputs: for each question, one (proposed text, log-probabilities of the types) per window."""
    built: dict[str, list[Any]] = {"question": [], "types": [], "spans": []}
    [passage] = data._passages_of("test")
    tokens = data.tokens_of(passage)
    for index, outputs in windows.items():
        for text, types in outputs:
            spans = []
            if text is not None:
                start, end = tokens.tokens((TEXT.index(text), TEXT.index(text) + len(text))) or (0, 0)
                spans = [(start, end - 1, -0.1)]
            built["question"].append([0, index])
            built["types"].append(types)
            built["spans"].append(spans)
    return built


SPAN_LIKELY, NONE_LIKELY = [-0.1, -50.0, -50.0, -2.0], [-2.0, -50.0, -50.0, -0.1]


@pytest.mark.parametrize("name", ["test.json", "test.json.gz", "test-v2.0.json", "test-v1.1.json.gz"])
def test_file_names_of_a_split(qa_files: Any, tokenizer: Any, tmp_path: Path, name: str) -> None:
    write(tmp_path, name, paragraph(law=["english law"], none=[]))
    data = loaded(qa_files, tokenizer, tmp_path)
    assert data.describe()["questions"]["test"] == 2
    assert data.data_files() == [tmp_path / name]


def test_answer_is_the_best_span_of_all_windows(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path, "test.json", paragraph(law=["english law"], wine=["red wine"], none=[]))
    data = loaded(qa_files, tokenizer, tmp_path)
    outputs = {
        0: [("german corpus", NONE_LIKELY), ("english law", SPAN_LIKELY)],  # in the second window
        1: [("red wine", NONE_LIKELY), ("red wine", NONE_LIKELY)],  # in no window
        2: [("data", NONE_LIKELY), ("data", [-0.2, -50.0, -50.0, -1.8])],
    }
    metrics = data.compute_metrics("test", rows(data, outputs))
    assert metrics["exact_match_answerable"] == 0.5 and metrics["f1_unanswerable"] == 0.0
    assert metrics["f1"] == pytest.approx(1 / 3)
    answers = data.format_predictions("test", rows(data, outputs))
    assert [answer["prediction_text"] for answer in answers] == ["english law", "", "data"]
    assert [answer["score"] for answer in answers] == [1.0, 0.0, 0.0]
    assert answers[1]["no_answer_probability"] > 0.8 > 0.2 > answers[0]["no_answer_probability"]


def test_threshold_decides_between_a_span_and_no_answer(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path, "test.json", paragraph(law=["english law"], wine=["red wine"], none=[]))
    outputs = {
        0: [("english law", [-0.5, -50.0, -50.0, -0.9])],  # probability of no answer: 0.40
        1: [("red wine", [-0.9, -50.0, -50.0, -0.5])],  # 0.60
        2: [("data", [-1.6, -50.0, -50.0, -0.2])],  # 0.80
    }
    expected = {0.5: ["english law", "", ""], 0.7: ["english law", "red wine", ""], 0.3: ["", "", ""]}
    for threshold, texts in expected.items():
        data = loaded(qa_files, tokenizer, tmp_path, no_answer_threshold=threshold)
        assert [each["prediction_text"] for each in data.format_predictions("test", rows(data, outputs))] == texts
        metrics = data.compute_metrics("test", rows(data, outputs))
        assert metrics["best_f1"] == 1.0 and metrics["best_threshold"] == pytest.approx(0.7, abs=0.01)
        assert metrics["f1"] == pytest.approx({0.5: 2 / 3, 0.7: 1.0, 0.3: 1 / 3}[threshold])
    with pytest.raises(ConfigError, match=r"no_answer_threshold: must be a number in \[0, 1\], got 2"):
        loaded(qa_files, tokenizer, tmp_path, no_answer_threshold=2)


@pytest.mark.parametrize(
    ("probabilities", "answered", "empty", "best"),
    [
        ([0.2, 0.4, 0.9], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], (1.0, 0.3)),
        ([0.2, 0.4, 0.9], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], (1.0, 0.0)),  # nothing is answered
        ([0.2, 0.4, 0.9], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], (1.0, 0.95)),  # everything is
        ([0.5, 0.5, 0.6], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], (2 / 3, 0.55)),  # equal ones are answered together
    ],
)
def test_best_threshold(
    probabilities: list[float], answered: list[float], empty: list[float], best: tuple[float, float]
) -> None:
    assert best_threshold(probabilities, answered, empty) == pytest.approx(best)


def test_without_no_answer_a_span_is_always_predicted(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path, "test.json", paragraph(wine=["red wine"]))
    data = loaded(qa_files, tokenizer, tmp_path, allow_no_answer=False)
    outputs = rows(data, {0: [("red wine", NONE_LIKELY)]})
    assert data.compute_metrics("test", outputs)["exact_match"] == 1.0
    assert loaded(qa_files, tokenizer, tmp_path).compute_metrics("test", outputs)["exact_match"] == 0.0
    assert data.compute_metrics("test", {"question": [], "types": [], "spans": []})["f1"] == 0.0


def test_question_is_protected_and_windows_without_the_answer_have_none(
    qa_files: Any, tokenizer: Any, tmp_path: Path
) -> None:
    write(tmp_path, "test.json", paragraph(law=["english law"], none=[]))
    for row in loaded(qa_files, tokenizer, tmp_path)._split("test").rows:
        start, end = row["context"]
        kept = [position for position, flag in enumerate(row["protected_mask"]) if flag]
        assert kept == [*range(start), *range(end, row["length"])]
        has_answer = row["question"][1] == 0 and row["spans"][0][0] >= 0
        assert row["answer_type"] == (0 if has_answer else 3)


def test_question_without_answer_needs_the_setting(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path, "test.json", paragraph(law=["english law"], nowhere=[]))
    with pytest.raises(
        DataError, match=r"question 'nowhere' of test has no answer; set task.data.allow_no_answer=true"
    ):
        loaded(qa_files, tokenizer, tmp_path, allow_no_answer=False)
    with pytest.raises(ConfigError, match="allow_no_answer"):
        loaded(qa_files, tokenizer, tmp_path, allow_no_answer="yes")


def test_contradiction_of_answers_and_is_impossible_raises(qa_files: Any, tokenizer: Any, tmp_path: Path) -> None:
    entry = paragraph(law=["english law"])
    entry["qas"][0]["is_impossible"] = True
    write(tmp_path, "test.json", entry)
    with pytest.raises(DataError, match=r"document 1 \(A\), paragraph 1, question 1: has answers, but 'is_impossible'"):
        loaded(qa_files, tokenizer, tmp_path)


def test_scores_equal_the_official_script_on_random_answers() -> None:
    """torchmetrics carries the official script of version 1.1, which has answerable questions only."""
    draw = random.Random(0)
    words = ["The", "red", "wine,", "Wine", "a", "corpus.", "an", "U.S.", "naïve", "1,000"]
    for _ in range(200):
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 4))) + " law" for _ in range(draw.randint(1, 3))]
        prediction = " ".join(draw.choices([*words, "law"], k=draw.randint(1, 4)))
        exact, f1 = answer_scores(prediction, texts)
        answers = {"answer_start": [0] * len(texts), "text": texts}
        official = official_squad([{"prediction_text": prediction, "id": "q"}], [{"answers": answers, "id": "q"}])
        assert 100 * exact == pytest.approx(float(official["exact_match"]))
        assert 100 * f1 == pytest.approx(float(official["f1"]), abs=1e-4)


@pytest.mark.parametrize(
    ("prediction", "references", "scores"),
    [
        ("", [], (1.0, 1.0)),
        ("law", [], (0.0, 0.0)),
        ("", ["law"], (0.0, 0.0)),
        ("the", [], (1.0, 1.0)),  # no word is left of the prediction, as in the official script
        ("", ["the", "..."], (1.0, 1.0)),  # no annotator's answer has a word left
        ("red law", ["law", "red wine law"], (0.0, 0.8)),
    ],
)
def test_scores_of_questions_without_answer(
    prediction: str, references: list[str], scores: tuple[float, float]
) -> None:
    assert answer_scores(prediction, references) == pytest.approx(scores)


def test_scores_by_kind_of_question() -> None:
    predictions = [{"text": "law"}, {"text": ""}, {"text": "wine"}]
    references: list[dict[str, list[str]]] = [{"texts": ["the law"]}, {"texts": ["wine"]}, {"texts": []}]
    scores = SquadScore().compute(predictions=predictions, references=references)
    assert scores["f1"] == pytest.approx(1 / 3) and scores["f1_answerable"] == 0.5 and scores["f1_unanswerable"] == 0.0
    assert (scores["count_answerable"], scores["count_unanswerable"]) == (2, 1)


def test_validation_paragraphs_are_of_articles_that_are_not_trained_on(
    qa_files: Any, tokenizer: Any, tmp_path: Path
) -> None:
    def article(title: str) -> dict[str, Any]:
        return {"title": title, "paragraphs": [paragraph(f"{TEXT} {number}", q=["wine"]) for number in range(3)]}

    for name, titles in {"train": "ABCD", "more": "XYZ", "test": "T"}.items():
        content = {"version": "v2.0", "data": [article(title) for title in titles]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    splits = {"train": ["train", "more"], "val": None, "test": "test"}
    rows = loaded(qa_files, tokenizer, tmp_path, splits=splits, val_size=4).read(("train", "val"))
    articles = {role: {passage.id.split()[0] for passage in passages_of(part)} for role, part in rows.items()}
    assert not articles["train"] & articles["val"]
    assert len(articles["val"]) == 2 and articles["val"] < set("ABCD"), "of the first file alone"
    assert len(rows["val"]) == 6, "whole articles"
