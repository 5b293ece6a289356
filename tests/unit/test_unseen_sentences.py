"""A larger test of SST-2, and training rows that have nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

WORDS = [f"w{number}" for number in range(400)]
LONG = [" ".join(WORDS[20 * row : 20 * row + 16]) for row in range(6)]  # whole sentences, no word in common
TEST = [" ".join(WORDS[200 + 20 * row : 210 + 20 * row]) for row in range(3)]


def put(folder: Path, **splits: list[tuple[str, int]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps({"sentence": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def rows(path: Path) -> list[tuple[str, int]]:
    return [(row["sentence"], row["label"]) for row in pq.read_table(path).to_pylist()]


def phrases(sentence: str) -> list[str]:
    """Parts of a sentence, then what has too little of it to be one."""
    words = sentence.split()
    parts = [words[3:9], words[:4], [*words[:8], "and", "more"], ["well", *words[8:]]]
    other = [words[:3], [*words[:7], "other", "end"]]
    return [" ".join(phrase) for phrase in (*parts, *other)]


def test_nothing_of_a_test_sentence_is_left_to_train_on(tmp_path: Path, main_of: Any) -> None:
    long = [(text, 1) for text in LONG]
    short = [(phrase, 0) for text in LONG for phrase in phrases(text)]
    source = put(tmp_path / "sst2", train=[*short, *long], test=[(text, 0) for text in TEST])
    main = main_of("unseen_sentences")
    assert main([str(source), str(tmp_path / "made"), "--size", "5"]) == 0
    train, test = rows(tmp_path / "made" / "train.parquet"), rows(tmp_path / "made" / "validation.parquet")
    moved = [text for text, label in test if label == 1]
    assert sorted(text for text, label in test if label == 0) == sorted(TEST) and len(moved) == 2
    parts = {part for text in moved for part in phrases(text)[:4]}
    assert len(parts) == 8
    assert train == [row for row in [*short, *long] if row[0] not in parts and row[0] not in moved]
    assert main([str(source), str(tmp_path / "again"), "--size", "5"]) == 0
    assert rows(tmp_path / "again" / "validation.parquet") == test


@pytest.mark.parametrize(
    ("labels", "size", "said"),
    [(-1, 4, "labels are 0 = negative, 1 = positive"), (1, 40, "6 training rows have 15 words or more, 37 are needed")],
)
def test_what_cannot_be_made_is_said_and_nothing_written(
    labels: int, size: int, said: str, tmp_path: Path, main_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = put(tmp_path / "sst2", train=[(text, 1) for text in LONG], test=[(text, labels) for text in TEST])
    assert main_of("unseen_sentences")([str(source), str(tmp_path / "made"), "--size", str(size)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
