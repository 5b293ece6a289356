"""Tests of the data module for texts without labels: formats, held-out texts, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retention.errors import ConfigError, DataError
from retention.tasks.embedding.data import TextData

TEXTS = [f"horse number {i} {'and so on ' * (i % 3)}".strip() for i in range(20)]


@pytest.fixture
def make_texts(tokenizer: Any) -> Callable[..., TextData]:
    """``make_texts(file, **settings)``: a data module with its tokenizer; three texts are held out twice."""

    def build(file: Path | str | None, **overrides: Any) -> TextData:
        settings: dict[str, Any] = {
            "name": "texts",
            "source_note": "texts without labels",
            "texts": None if file is None else str(file),
            "text_column": "text",
            "max_length": 16,
            "train_size": None,
            "val_size": 3,
            "test_size": None,
            "batch_size": 4,
            "eval_batch_size": 4,
            "seed": 0,
        }
        data = TextData(**{**settings, **overrides})
        data.attach(tokenizer)
        return data

    return build


def write(folder: Path, suffix: str, texts: list[str]) -> Path:
    """Write texts in the format of a suffix."""
    file = folder / f"texts{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), file)
    else:
        lines = {".txt": texts, ".jsonl": [json.dumps({"text": each}) for each in texts], ".csv": ["text", *texts]}
        file.write_text("\n".join(lines[suffix]) + "\n", encoding="utf-8")
    return file


def rows(data: TextData, split: str) -> list[list[int]]:
    """Return the token rows of a split."""
    return [list(ids) for ids in data._splits[split].rows["input_ids"]]  # type: ignore[index]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet", ".csv"])
def test_every_format_gives_the_same_rows(suffix: str, make_texts: Any, tmp_path: Path) -> None:
    data, lines = make_texts(write(tmp_path, suffix, TEXTS)), make_texts(write(tmp_path, ".txt", TEXTS))
    for each in (data, lines):
        each.setup("fit")
        each.setup("test")
    assert [len(rows(data, split)) for split in ("train", "val", "test")] == [14, 3, 3]
    for split in ("train", "val", "test"):
        assert rows(data, split) == rows(lines, split)


def test_splits_are_disjoint_and_held_out_texts_do_not_depend_on_the_seed(make_texts: Any, tmp_path: Path) -> None:
    file, held_out = write(tmp_path, ".txt", TEXTS), []
    for seed in (0, 1):
        data = make_texts(file, seed=seed, train_size=10)
        splits = data.read(["train", "val", "test"])
        texts = {split: list(part["text"]) for split, part in splits.items()}
        assert [len(part) for part in texts.values()] == [10, 3, 3]
        assert len({text for part in texts.values() for text in part}) == 16
        held_out.append((texts["val"], texts["test"], texts["train"]))
    assert held_out[0][:2] == held_out[1][:2] and held_out[0][2] != held_out[1][2]


def test_batches_have_index_and_no_labels(make_texts: Any, tmp_path: Path) -> None:
    data = make_texts(write(tmp_path, ".txt", TEXTS))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "protected_mask", "index"}
    assert sorted(batch["index"].tolist()) == [0, 1, 2]


def test_repeated_texts_count_once(make_texts: Any, tmp_path: Path) -> None:
    data = make_texts(write(tmp_path, ".txt", [*TEXTS, "", *TEXTS[:5]]))
    data.setup("fit")
    description = data.describe()
    assert (description["train"], description["val"]) == (14, 3)
    assert description["source"] == "local files: texts.txt; 5 repeated texts left out"
    assert description["provenance"] == "local"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("texts.jsonl", b'{"text": "a"}\n{"text": 5}\n', r"texts\.jsonl, line 2: 'text' must be a text"),
        ("texts.jsonl", b'{"body": "a"}\n', r"no column 'text', only 'body'; set task\.data\.text_column"),
        ("texts.txt", b"good\nbad \xff\n", r"texts\.txt, line 2: not UTF-8"),
        ("texts.txt", b"\n\n", r"texts\.txt: has no rows"),
        ("texts.txt", b"one\ntwo\n", r"test_size: 3 rows to hold out of 2 leave none"),
        ("texts.txt", b"1\n2\n3\n4\n5\n", r"val_size: 3 rows to hold out of 2 leave none"),
        ("texts.pdf", b"%PDF", r"texts\.pdf: cannot be read, its name must end with"),
    ],
)
def test_faults_of_files_are_named(name: str, content: bytes, message: str, make_texts: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        make_texts(tmp_path / name).setup("fit")


def test_missing_file_and_folder_are_named(make_texts: Any, tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing.txt", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=rf"{reason}; pass texts=<file of texts>"):
            make_texts(path).setup("fit")


@pytest.mark.parametrize(
    ("settings", "key"), [({"texts": None}, "texts"), ({"val_size": 2}, "val_size"), ({"test_size": 1}, "test_size")]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], key: str, make_texts: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make_texts("texts.txt", **settings)
    assert [problem.key for problem in caught.value.problems] == [key]
