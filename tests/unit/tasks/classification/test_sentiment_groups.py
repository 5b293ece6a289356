"""Groups of sentences with a negation or a contrast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.report.group_scores import group_scores
from retention.tasks.classification.data import TextClassificationData
from retention.tasks.classification.sentiment_groups import sentiment_groups


@pytest.mark.parametrize("text", ["not good", "I don't care", "it does n't work", "Never again .", "no!"])
def test_negations_are_recognized(text: str) -> None:
    assert sentiment_groups([text])["negation"] == [0]


@pytest.mark.parametrize("text", ["slow, but good", "Although long", "good ; however , long", "on the other hand, fun"])
def test_contrasts_are_recognized(text: str) -> None:
    assert sentiment_groups([text])["contrast"] == [0]


@pytest.mark.parametrize("text", ["a knot of notes", "nobility", "the butler", "a tutt'", "yeti", "know"])
def test_words_that_contain_them_are_not(text: str) -> None:
    assert sentiment_groups([text]) == {"negation": [], "contrast": [], "neither": [0]}


def test_a_text_may_be_in_two_groups_but_neither_excludes_both() -> None:
    groups = sentiment_groups(["not bad but long", "fine", "but fine", "never"])
    assert groups == {"negation": [0, 3], "contrast": [0, 2], "neither": [1]}


def test_group_scores_are_means_of_row_scores() -> None:
    rows = [{"index": index, "score": score} for index, score in ((3, 1.0), (0, 0.0), (1, 1.0))]
    scores = group_scores(rows, {"negation": [0, 3], "contrast": [], "neither": [1]})
    assert scores == {"negation": {"rows": 2, "score": 0.5}, "neither": {"rows": 1, "score": 1.0}}
    assert group_scores(rows, {}) == {}


def test_predictions_of_other_rows_are_refused() -> None:
    with pytest.raises(DataError, match="7 is missing"):
        group_scores([{"index": 0, "score": 1.0}], {"negation": [7]})
    with pytest.raises(DataError, match="score"):
        group_scores([{"index": 0}], {"negation": [0]})


def _data(folder: Path, names: list[str]) -> TextClassificationData:
    rows = [{"text": text, "label": 0} for text in ("not bad", "fine", "slow but fine")]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"train_size": None, "val_size": 1, "test_size": None, "batch_size": 2, "seed": 0}
    return TextClassificationData(
        **settings,
        name="made_up",
        source_note="made up",
        hub=None,
        dir=str(folder),
        max_length=16,
        splits={"train": "train", "val": None, "test": "test"},
        eval_batch_size=2,
        text_column="text",
        label_column="label",
        label_names=names,
    )


def test_sentiment_data_has_groups_of_its_test_rows(tmp_path: Path, tokenizer: Any) -> None:
    data = _data(tmp_path, ["negative", "positive"])
    data.attach(tokenizer)
    data.setup("test")
    assert data.row_groups("test") == {"negation": [0], "contrast": [2], "neither": [1]}
    other = _data(tmp_path, ["sports", "science"])
    other.attach(tokenizer)
    other.setup("test")
    assert other.row_groups("test") == {}, "topics have no negation"
