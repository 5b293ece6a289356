"""A larger test set of SST-2 whose sentences appear nowhere in the training rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reproduction.unseen_sentences import check_no_overlap, divide, main

from retention.errors import DataError

WORDS = [f"w{number}" for number in range(400)]
LONG = [" ".join(WORDS[20 * row : 20 * row + 16]) for row in range(6)]  # whole sentences, no word in common
TEST = [" ".join(WORDS[200 + 20 * row : 210 + 20 * row]) for row in range(3)]


def write_source(folder: Path, **splits: list[tuple[str, int]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps({"sentence": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def read_rows(path: Path) -> list[tuple[str, int]]:
    return [(row["sentence"], row["label"]) for row in pq.read_table(path).to_pylist()]


def overlapping(sentence: str) -> list[str]:
    """Return texts that must not be trained on if the sentence is tested."""
    words = sentence.split()
    return [
        " ".join(words[3:9]),  # a phrase of it
        " ".join(words[:4]),  # the shortest phrase that counts
        f"{sentence} and more",  # contains it at the start,
        f"they say : {sentence}",  # at the end,
        f"they say {sentence} again",  # and in the middle
        " ".join([*words[:8], "and", "more"]),  # shares 8 words at the start,
        " ".join(["oh", "well", *words[1:9], "and", "more"]),  # in the middle,
        " ".join(["well", *words[-8:]]),  # and at the end
        sentence.upper(),
    ]


def harmless(sentence: str) -> list[str]:
    """Return texts that share too little with the sentence."""
    words = sentence.split()
    return [" ".join(words[:3]), " ".join(["oh", *words[:7], "other", "end"]), " ".join(reversed(words))]


def test_no_training_row_overlaps_with_a_test_sentence(tmp_path: Path) -> None:
    long = [(text, 1) for text in LONG]
    phrases = [(text, 0) for sentence in (*LONG, *TEST) for text in (*overlapping(sentence), *harmless(sentence))]
    short = [(text, label) for text, label in phrases if len(text.split()) < 15]
    source = write_source(tmp_path / "sst2", train=[*short, *long], test=[(text, 0) for text in TEST])
    assert main([str(source), str(tmp_path / "made"), "--size", "5"]) == 0
    train, test = (read_rows(tmp_path / "made" / f"{split}.parquet") for split in ("train", "validation"))
    moved = [text for text, label in test if label == 1]
    assert sorted(text for text, label in test if label == 0) == sorted(TEST) and len(moved) == 2
    forbidden = {text for sentence in (*moved, *TEST) for text in overlapping(sentence)}
    assert train == [row for row in [*short, *long] if row[0] not in forbidden and row[0] not in moved]
    assert {text for text, _ in train} >= {text for sentence in TEST for text in harmless(sentence)}
    assert main([str(source), str(tmp_path / "again"), "--size", "5"]) == 0
    assert read_rows(tmp_path / "again" / "validation.parquet") == test


def test_short_test_sentence_is_detected_within_longer_rows() -> None:
    train = [("a good film", 1), ("a goods film", 1), ("good", 1), ("good film", 1), ("film good", 1)]
    kept, _ = divide(train, [("Good film", 1)], 1)
    assert [text for text, _ in kept] == ["a goods film", "good", "film good"]


@pytest.mark.parametrize("text", overlapping(TEST[0])[2:])
def test_final_check_finds_every_overlap(text: str) -> None:
    check_no_overlap([(row, 0) for row in harmless(TEST[0])], [(TEST[0], 1)])
    with pytest.raises(DataError, match=r"contains the test sentence|share 8 consecutive words"):
        check_no_overlap([("other words", 0), (text, 0)], [(TEST[0], 1)])


@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [(-1, 4, "labels are 0 = negative, 1 = positive"), (1, 40, "6 training rows have 15 words or more, 37 are needed")],
)
def test_unusable_source_is_refused_and_nothing_written(
    labels: int, size: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"train": [(text, 1) for text in LONG], "test": [(text, labels) for text in TEST]}
    source = write_source(tmp_path / "sst2", **rows)
    assert main([str(source), str(tmp_path / "made"), "--size", str(size)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_missing_folder_names_the_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "made")]) == 2
    assert "no such folder; pass as source <folder with" in capsys.readouterr().err
