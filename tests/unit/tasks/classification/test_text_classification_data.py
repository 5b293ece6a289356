from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from retention.errors import ConfigError, DataError
from retention.tasks.classification.data import TextClassificationData
from retention.tasks.classification.keywords import KeywordData

MakeData = Callable[..., TextClassificationData]
WriteRows = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write_rows: WriteRows) -> Path:
    write_rows(tmp_path / "reviews", "train", 20)
    write_rows(tmp_path / "reviews", "test", 9, text="other words")
    return tmp_path / "reviews"


def test_batches_have_the_documented_tensors(
    folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = make_data(dir=str(folder))
    data.attach(tokenizer)
    data.setup("fit")
    data.setup("test")
    seen: dict[str, list[int]] = {}
    for name, loader in (
        ("train", data.train_dataloader()),
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
    ):
        for batch in loader:
            rows, length = batch["input_ids"].shape
            assert set(batch) == {"input_ids", "attention_mask", "protected_mask", "labels", "index"}
            assert batch["attention_mask"].shape == batch["protected_mask"].shape == (rows, length)
            assert batch["labels"].shape == batch["index"].shape == (rows,)
            assert all(batch[key].dtype == torch.long for key in set(batch) - {"protected_mask"})
            assert batch["protected_mask"].dtype == torch.bool
            assert torch.equal(batch["protected_mask"].sum(1), torch.full((rows,), 2))
            assert not (batch["protected_mask"] & (batch["attention_mask"] == 0)).any()
            assert batch["attention_mask"].sum(1).max() == length, "padded to the longest row of the batch"
            seen.setdefault(name, []).extend(batch["index"].tolist())
    assert {name: sorted(rows) for name, rows in seen.items()} == {
        "train": list(range(17)),
        "val": list(range(3)),
        "test": list(range(9)),
    }


def test_index_identifies_text_and_label(folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make_data(dir=str(folder), test_size=5)
    data.attach(tokenizer)
    data.setup("test")
    for batch in data.test_dataloader():
        for index, label in zip(batch["index"].tolist(), batch["labels"].tolist(), strict=True):
            text = data.example(index)
            assert text.startswith("other words") and int(text.split()[-1]) % 2 == label
    for index in (5, -1):
        with pytest.raises(DataError, match=rf"test document {index} does not exist, there are 5 \(0..4\)"):
            data.example(index)


def test_folder_with_only_a_test_file_can_be_tested(
    tmp_path: Path, write_rows: WriteRows, make_data: MakeData, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_rows(tmp_path, "test", 6)
    data = make_data(dir=str(tmp_path))
    data.attach(tokenizer)
    data.setup("test")
    assert sum(len(batch["index"]) for batch in data.test_dataloader()) == 6
    assert data.describe()["train"] is None and data.describe()["test"] == 6
    sized = make_data(dir=str(tmp_path), train_size=4)
    sized.attach(tokenizer)
    sized.setup("test")
    assert sized.describe()["train"] == 4, "what the model that is tested here was trained on"
    for stage in ("fit", "validate"):
        with pytest.raises(DataError, match=r"none of train\.parquet"):
            data.setup(stage)


def test_description_and_one_warning_per_truncated_split(
    folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_data(dir=str(folder), max_length=8, train_size=10)
    data.attach(tokenizer)
    with caplog.at_level(logging.WARNING, logger="retention"):
        data.setup("fit")
        data.setup("test")
        data.setup("test")
    described = data.describe()
    truncated = described.pop("truncated")
    assert described == {
        "name": "reviews",
        "source": "local files: reviews",
        "provenance": "local",
        "train": 10,
        "val": 3,
        "test": 9,
        "max_length": 8,
    }
    # Of a row's "<two words> {and so on} x (i mod 4) <number>", those with i mod 4 > 1 exceed 6 words.
    assert truncated["test"] == 4 and 0 < truncated["train"] < 10
    lines = [record.getMessage() for record in caplog.records]
    assert "reviews test: 4 of 9 documents are longer than max_length=8 tokens and were truncated" in lines
    assert len(lines) == sum(count > 0 for count in truncated.values())


@pytest.mark.parametrize(("note", "source"), [(None, "local files: reviews"), ("the real reviews", "the real reviews")])
def test_local_files_are_not_described_as_the_benchmark(
    note: str | None, source: str, folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = make_data(dir=str(folder), local_note=note)
    data.attach(tokenizer)
    data.setup("test")
    assert data.describe()["source"] == source
    hub = make_data(dir=None, hub={"path": "org/reviews"}, local_note=note)
    assert hub.settings.source_note == "made-up reviews"


def test_labels_file_takes_precedence_over_label_names(folder: Path, make_data: MakeData) -> None:
    assert make_data(dir=str(folder)).label_names == ("bad", "good")
    (folder / "labels.json").write_text('["no", "maybe", "yes"]')
    data = make_data(dir=str(folder))
    assert data.label_names == ("no", "maybe", "yes") and data.head() == {"num_labels": 3}


def test_labels_are_matched_by_name_with_those_of_a_trained_model(
    folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast
) -> None:
    (folder / "labels.json").write_text('["good", "bad"]')
    data = make_data(dir=str(folder))
    before = list(data.read(["test"])["test"]["label"])
    data.use_label_order(["bad", "good"], "first.ckpt")
    assert data.label_names == ("bad", "good")
    data.attach(tokenizer)
    data.setup("test")
    [after] = [[row["label"] for row in data._split("test").rows]]
    assert after == [1 - label for label in before] and len(set(after)) == 2
    data.use_label_order(["bad", "good"], "second.ckpt")
    with pytest.raises(DataError, match=r"\['bad', 'good'\] in second.ckpt and \['good', 'bad'\] in third.ckpt"):
        data.use_label_order(["good", "bad"], "third.ckpt")


def test_data_files_are_those_that_rows_are_read_from(folder: Path, make_data: MakeData) -> None:
    (folder / "labels.json").write_text('["no", "maybe", "yes"]')
    for name in ("notes.csv", "train.txt", "validation.csv"):
        (folder / name).touch()
    names = {path.name for path in make_data(dir=str(folder)).data_files()}
    assert names == {"train.parquet", "test.parquet", "labels.json"}
    splits = {"train": "train", "val": "validation", "test": ["test", "absent"]}
    assert "validation.csv" in {path.name for path in make_data(dir=str(folder), splits=splits).data_files()}
    assert make_data(dir=None, hub={"path": "org/reviews"}).data_files() == []


def test_a_trained_model_with_other_classes_is_refused(folder: Path, make_data: MakeData) -> None:
    message = r"the classes of the rows are \['bad', 'good'\], those of a.ckpt are \['no', 'yes'\]; use .*labels.json"
    with pytest.raises(DataError, match=message):
        make_data(dir=str(folder)).use_label_order(["no", "yes"], "a.ckpt")


@pytest.mark.parametrize(
    ("source", "size", "provenance"),
    [
        ({"dir": None, "hub": {"path": "org/reviews"}}, None, "benchmark"),
        ({"dir": None, "hub": {"path": "org/reviews"}}, 5, "subset"),
        ({"dir": None, "hub": {"path": "org/reviews"}, "provenance": "generated"}, 5, "generated"),
        ({}, None, "local"),
        ({"local_provenance": "benchmark"}, None, "benchmark"),
        ({"local_provenance": "benchmark"}, 5, "subset"),
        ({"local_provenance": "stand_in"}, 5, "stand_in"),
    ],
)
@pytest.mark.parametrize("key", ["train_size", "test_size"])
def test_provenance_depends_on_source_and_sizes(
    source: dict[str, Any], size: int | None, provenance: str, key: str, make_data: MakeData
) -> None:
    assert make_data(**source, **{key: size}).provenance() == provenance


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 2", "broken JSON"),
        (r'["good", "half \ud83d"]', "has half a character (lone surrogate)"),
        ('["one"]', "must be a list of at least 2 different class names, in label order, got ['one']"),
        ('["same", "same"]', "must be a list"),
        ('{"0": "no"}', "must be a list"),
    ],
)
def test_invalid_labels_file_raises(content: str, problem: str, folder: Path, make_data: MakeData) -> None:
    (folder / "labels.json").write_text(content)
    with pytest.raises(DataError) as raised:
        make_data(dir=str(folder))
    assert str(raised.value).startswith(f"{folder / 'labels.json'}: {problem}")


def test_cache_key_depends_on_documents_settings_and_tokenizer(
    folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast, cache_folder: Path, write_rows: WriteRows
) -> None:
    def encode(**settings: Any) -> set[str]:
        data = make_data(dir=str(folder), **settings)
        data.attach(tokenizer)
        data.setup("test")
        return {path.name for path in (cache_folder / "retention").glob("*.arrow")}

    first = encode()
    assert len(first) == 1
    stamp = next((cache_folder / "retention").glob("*.arrow")).stat().st_mtime_ns
    assert encode() == first
    assert next((cache_folder / "retention").glob("*.arrow")).stat().st_mtime_ns == stamp
    assert len(encode(max_length=9)) == 2
    write_rows(folder, "test", 9, text="changed words")
    assert len(encode()) == 3
    tokenizer = KeywordData.build_tokenizer()
    tokenizer.add_tokens(["words"])
    assert len(encode()) == 4


def test_attaching_another_tokenizer_discards_encoded_rows(
    folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = make_data(dir=str(folder))
    data.attach(tokenizer)
    data.setup("test")
    other = KeywordData.build_tokenizer()
    other.add_tokens(["words"])
    data.attach(other)
    with pytest.raises(RuntimeError, match=r"call setup\(\)"):
        data.test_dataloader()
    data.setup("test")
    ids = {token for batch in data.test_dataloader() for row in batch["input_ids"].tolist() for token in row}
    assert other.convert_tokens_to_ids("words") in ids


def test_calls_before_attach_or_setup_raise(make_data: MakeData, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make_data()
    with pytest.raises(RuntimeError, match=r"call attach\(tokenizer\) before setup"):
        data.setup("fit")
    data.attach(tokenizer)
    for call in (data.describe, data.train_dataloader, lambda: data.example(0)):
        with pytest.raises(RuntimeError, match="setup"):
            call()
    with pytest.raises(ValueError, match="stage must be one of fit, validate, test, got 'predict'"):
        data.setup("predict")


def test_label_names_are_kept_in_order(make_data: MakeData) -> None:
    data = make_data(label_names=["a", "b", "c"])
    assert data.num_labels == 3 and data.label_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a/b"),
        ("source_note", " "),
        ("dir", None),
        ("text_column", None),
        ("label_names", ["same", "same"]),
        ("max_length", "long"),
        ("splits", {"train": "train"}),
        ("train_size", 0),
        ("batch_size", 0),
        ("eval_batch_size", 2.0),
        ("num_workers", -1),
        ("seed", -1),
        ("provenance", "real"),
        ("local_provenance", "real"),
    ],
)
def test_invalid_setting_raises_with_its_key(make_data: MakeData, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make_data(**{key: value})
    assert [problem.key for problem in raised.value.problems] == [key]


@pytest.mark.parametrize("names", ["ab", ["one"], ["a", 3], None])
def test_label_names_must_be_a_list_of_names(make_data: MakeData, names: object) -> None:
    with pytest.raises(ConfigError, match="label_names: must be a list of at least 2 different names"):
        make_data(label_names=names)


def test_folds_divide_the_rows_of_both_files(
    folder: Path, make_data: MakeData, tokenizer: PreTrainedTokenizerFast
) -> None:
    tested: list[str] = []
    for seed in range(2):
        data = make_data(dir=str(folder), folds=2, seed=seed)
        data.attach(tokenizer)
        data.setup("fit")
        data.setup("test")
        described = data.describe()
        assert described["folds"] == 2
        assert described["train"] + described["val"] + described["test"] == 29
        tested += data.texts("test")
        assert not set(data.texts("test")) & set(data.texts("val"))
    assert len(tested) == len(set(tested)) == 29
