from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset

from retention.data.local_files import find_file
from retention.data.sources import Source
from retention.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]
COLUMNS = {"text_column": "text", "label_column": "label"}
NAMES = ("bad", "good")


def read(folder: Path, split: str = "train") -> tuple[list[str], list[int]]:
    table = Source(str(folder), None).read(split, COLUMNS)
    return table.texts("text"), table.labels("label", NAMES)


def failure(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        read(folder)
    assert raised.value.__cause__ is None and (raised.value.__context__ is None or raised.value.__suppress_context__)
    return str(raised.value)


def parquet(folder: Path, **columns: list[Any]) -> Path:
    path = folder / "train.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def jsonl(folder: Path, *records: Any) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def text_file(folder: Path, suffix: str, content: str | bytes) -> Path:
    path = folder / f"train.{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    texts, labels = ["a cat, and\na dog", 'say "hi"', "é\u2028ß \x00", "x" * 200_000], [0, 1, 1, 0]
    for name in ("p", "j", "c"):
        (tmp_path / name).mkdir()
    parquet(tmp_path / "p", text=texts, label=labels, extra=[None] * 4)
    jsonl(tmp_path / "j", *({"label": y, "text": t} for t, y in zip(texts, labels, strict=True)))
    with (tmp_path / "c" / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "text", "label"), *((0, t, y) for t, y in zip(texts, labels, strict=True))])
    before = csv.field_size_limit()
    for name in ("p", "j", "c"):
        assert read(tmp_path / name) == (texts, labels), name
    assert csv.field_size_limit() == before


def test_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = text_file(tmp_path, "csv", b"\xef\xbb\xbftext,label\r\nfine,1\r\n\r\nbad,0\r\n")
    assert read(tmp_path) == (["fine", "bad"], [1, 0])
    path.unlink()
    text_file(tmp_path, "jsonl", b'\xef\xbb\xbf{"text": "fine", "label": 1}\n\n')
    assert read(tmp_path) == (["fine"], [1])


def test_missing_folder_and_files_raise(tmp_path: Path) -> None:
    message = failure(tmp_path / "gone")
    assert f"{tmp_path / 'gone'}: no such folder" in message and "data.dir=<folder" in message
    (tmp_path / "notes.txt").touch()
    (tmp_path / "train.csv").mkdir()
    message = failure(tmp_path)
    assert "none of train.parquet, train.csv, train.jsonl is there" in message and "notes.txt" in message


def test_two_files_for_one_split_raise(tmp_path: Path) -> None:
    parquet(tmp_path, text=["a"], label=[0])
    jsonl(tmp_path, {"text": "a", "label": 0})
    assert "has train.parquet and train.jsonl; keep exactly one" in failure(tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_missing_column_raises_with_the_config_key(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        parquet(tmp_path, sentence=["a"], label=[0])
    elif suffix == "csv":
        text_file(tmp_path, "csv", "sentence,label\na,0\n")
    else:
        jsonl(tmp_path, {"sentence": "a", "label": 0})
    message = failure(tmp_path)
    assert f"train.{suffix}: has no column 'text', only 'sentence', 'label'" in message
    assert "set task.data.text_column" in message


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_duplicated_column_raises(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array([0])], ["text", "text", "label"])
        pq.write_table(table, tmp_path / "train.parquet")
    else:
        text_file(tmp_path, "csv", "text,text,label\na,b,0\n")
    assert f"train.{suffix}: has 2 columns named 'text'" in failure(tmp_path)


def test_json_number_of_5000_digits_raises_with_its_line(tmp_path: Path) -> None:
    path = text_file(tmp_path, "jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}\n")
    assert failure(tmp_path).startswith(f"{path}, line 1: broken JSON (Exceeds the limit")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (None, "is missing"),
        (2, "must be from 0 to 1, got 2"),
        (-2, "must be from 0 to 1, got -2"),
        (-1, "is -1, which marks hidden labels"),
        (0.5, "must be a whole number, got 0.5"),
        (True, "must be a whole number, got True"),
        ("", "is missing"),
        ([1], "must be a whole number, got [1]"),
    ],
)
def test_invalid_label_raises_with_its_line(tmp_path: Path, label: object, problem: str) -> None:
    path = jsonl(tmp_path, {"text": "a", "label": 1}, {"text": "b", "label": label}, {"text": "c", "label": 9})
    message = failure(tmp_path)
    assert message.startswith(f"{path}, line 2: 'label' {problem}")
    assert message.endswith("labels are 0 = bad, 1 = good")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("Good", "must be a whole number or a name, got 'Good'"),
        ("1.0", "must be a whole number or a name, got '1.0'"),
        ("9" * 5000, f"must be a whole number or a name, got '{'9' * 40}'... (5000 characters)"),
    ],
)
def test_text_that_is_no_label_raises_with_the_remedy(tmp_path: Path, label: str, problem: str) -> None:
    path = text_file(tmp_path, "csv", f"text,label\na,1\nb,{label}\n")
    message = failure(tmp_path)
    assert message.startswith(f"{path}, line 3: 'label' {problem}; labels are 0 = bad, 1 = good")
    assert "task.data.label_names" in message and "labels.json" in message


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_names_of_classes_are_labels(tmp_path: Path, suffix: str) -> None:
    labels = ["good", " bad ", "1", "good"]
    if suffix == "parquet":
        parquet(tmp_path, text=list("abcd"), label=labels)
    elif suffix == "jsonl":
        jsonl(tmp_path, *({"text": "a", "label": label} for label in labels))
    else:
        text_file(tmp_path, "csv", "text,label\n" + "".join(f"a,{label}\n" for label in labels))
    assert read(tmp_path)[1] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is missing"),
        ("", "is blank"),
        (" \t\n\u00a0", "is blank"),
        (12, "must be a text, got 12 (int)"),
        ("half \ud83d", "has half a character (lone surrogate) at position 5"),
    ],
)
def test_invalid_text_raises_with_its_line(tmp_path: Path, text: object, problem: str) -> None:
    path = jsonl(tmp_path, {"text": "a", "label": 1}, {"text": text, "label": 0})
    assert failure(tmp_path).startswith(f"{path}, line 2: 'text' {problem}; fix the row")


def test_rows_of_parquet_and_lines_of_csv_are_named(tmp_path: Path) -> None:
    path = parquet(tmp_path, text=["a", "b", None], label=[0, 1, 1])
    assert failure(tmp_path).startswith(f"{path}, row 3: 'text' is missing")
    path.unlink()
    path = parquet(tmp_path, text=["a", "b"], label=[0.0, float("nan")])
    assert failure(tmp_path).startswith(f"{path}, row 1: 'label' must be a whole number, got 0.0")
    path.unlink()
    path = text_file(tmp_path, "csv", 'text,label\n"two\nlines",1\nfine,0\nwrong,one\n')
    assert failure(tmp_path).startswith(f"{path}, line 5: 'label' must be a whole number or a name, got 'one'")


@pytest.mark.parametrize(
    ("suffix", "content", "problem"),
    [
        ("csv", "", "is empty"),
        ("csv", "text,label\n", "has no rows"),
        ("jsonl", "", "has no rows"),
        ("jsonl", "\n\n", "has no rows"),
    ],
)
def test_empty_text_files_raise(tmp_path: Path, suffix: str, content: str, problem: str) -> None:
    path = text_file(tmp_path, suffix, content)
    assert failure(tmp_path).startswith(f"{path}: {problem}")


def test_empty_parquet_raises(tmp_path: Path) -> None:
    path = parquet(tmp_path, text=pa.array([], pa.string()), label=pa.array([], pa.int64()))
    assert failure(tmp_path).startswith(f"{path}: has no rows")


def test_not_utf8_gives_line_offset_and_remedy(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbftext,label\nfine,1\ncaf\xe9,0\n"
    path = text_file(tmp_path, "csv", content)
    message = failure(tmp_path)
    assert message.startswith(f"{path}, line 3: not UTF-8 (byte 0xe9 at byte offset {content.index(0xE9)})")
    assert "iconv" in message
    path.unlink()
    content = b'\xef\xbb\xbf{"text": "caf\xe9", "label": 1}\n'
    path = text_file(tmp_path, "jsonl", content)
    assert failure(tmp_path).startswith(f"{path}, line 1: not UTF-8 (byte 0xe9 at byte offset {content.index(0xE9)})")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "b", "label"', "broken JSON (Expecting ':' delimiter"),
        ("[1, 2]", "must be a JSON object with named fields, got list"),
    ],
)
def test_broken_json_line_raises(tmp_path: Path, line: str, problem: str) -> None:
    path = text_file(tmp_path, "jsonl", '{"text": "a", "label": 1}\n\n' + line + "\n")
    assert failure(tmp_path).startswith(f"{path}, line 3: {problem}")


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("text,label\na,1\nb,c,0\n", 3, "has 3 fields, the header has 2"),
        ('text,label\na,1\n"open,0\n', 3, "broken CSV (unexpected end of data)"),
    ],
)
def test_broken_csv(tmp_path: Path, content: str, line: int, problem: str) -> None:
    path = text_file(tmp_path, "csv", content)
    assert failure(tmp_path).startswith(f"{path}, line {line}: {problem}")


def test_broken_parquet(tmp_path: Path) -> None:
    path = text_file(tmp_path, "parquet", b"PAR1 this is no parquet file")
    assert failure(tmp_path).startswith(f"{path}: not a readable parquet file (")
    whole = parquet(tmp_path, text=["abc" * 99] * 50, label=[0] * 50).read_bytes()
    text_file(tmp_path, "parquet", whole[: len(whole) // 2])
    assert failure(tmp_path).startswith(f"{path}: not a readable parquet file (")
    invalid = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")])
    parquet(tmp_path, text=invalid, label=[0])
    assert failure(tmp_path).startswith(f"{path}: not a readable parquet file (")


def test_unreadable_file_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path, {"text": "a", "label": 1})

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert failure(tmp_path) == f"{path}: cannot be read: Permission denied"


def test_hub_rows_are_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[Any, ...]] = []
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1], "idx": [0, 1]})

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> Dataset:
        requests.append((path, name, split, revision))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = Source(None, {"path": "org/set", "name": "sub"})
    table = source.read("test", COLUMNS)
    assert requests == [("org/set", "sub", "test", None)]
    assert table.texts("text") == ["a", "b"]
    with pytest.raises(
        DataError, match=r"^hub data set org/set \(sub\), split test, row 2: 'label' is -1, which marks"
    ):
        table.labels("label", NAMES)
    with pytest.raises(DataError, match=r"has no column 'sentence', only 'text', 'label', 'idx'; set task.data.x"):
        source.read("test", {"x": "sentence"})
    rows = Dataset.from_dict({"text": [], "label": []})
    with pytest.raises(DataError, match="split test: has no rows"):
        source.read("test", COLUMNS)


def test_converted_branch_has_no_named_configurations(tmp_path: Path) -> None:
    """The hub's branch refs/convert/parquet has folders, but no card that names them: asking for one fails."""
    for split, rows in (("train", ["a"]), ("validation", ["b", "c"])):
        (tmp_path / "qasper" / split).mkdir(parents=True)
        pq.write_table(pa.table({"text": rows}), tmp_path / "qasper" / split / "0000.parquet")
    hub = {"path": str(tmp_path), "revision": "refs/convert/parquet"}
    assert Source(None, hub).read("validation", {"text": "text"}).columns["text"] == ["b", "c"]
    with pytest.raises(DataError, match="BuilderConfig 'qasper' not found"):
        Source(None, {**hub, "name": "qasper"}).read("validation", {"text": "text"})


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "task").glob("*.yaml")), ids=lambda path: path.stem)
def test_task_files_name_what_the_hub_can_load(path: Path) -> None:
    hub = yaml.safe_load(path.read_text()).get("data", {}).get("hub")  # tasks of decoders have no data node
    if hub is not None:
        assert Source(None, hub).hub == hub
        assert set(hub) == {"path", "name", "revision"}
        assert hub["revision"] is None or hub["name"] is None, "a converted branch has no named configurations"


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError("nothing"), ValueError("bad split")])
def test_unreachable_hub_raises_with_the_remedy(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> Dataset:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as raised:
        Source(None, {"path": "org/set"}).read("test", COLUMNS)
    assert str(raised.value).startswith(f"hub data set org/set, split test: cannot be loaded ({error})")
    assert "data.dir=<folder with test.parquet, .csv or .jsonl>" in str(raised.value)


def test_folder_takes_precedence_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("the hub must not be used"))
    parquet(tmp_path, text=["a"], label=[1])
    assert Source(str(tmp_path), {"path": "org/set"}).read("train", COLUMNS).columns["text"] == ["a"]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ((None, None), "dir"),
        (("", {"path": "org/set"}), "dir"),
        (("here", None, " "), "local_note"),
        (("here", None, None, "real"), "local_provenance"),
        ((None, {"path": "org/set"}, None, "stand_in"), "local_provenance"),
        ((None, {"name": "sub"}), "hub"),
        ((None, {"path": "org/set", "split": "train"}), "hub"),
        ((None, ["org/set"]), "hub"),
    ],
)
def test_invalid_source_raises_with_its_key(settings: tuple[Any, ...], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Source(*settings)
    assert [problem.key for problem in raised.value.problems] == [key]


def test_a_file_instead_of_its_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,0\n")
    with pytest.raises(DataError, match=r"train\.csv: is a file; pass its folder, data\.dir="):
        find_file(str(tmp_path / "train.csv"), ["train.csv"], "train.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_digits_that_are_names_of_classes_mean_these_classes(suffix: str, tmp_path: Path) -> None:
    def labels(values: list[int], names: tuple[str, ...]) -> list[int]:
        if suffix == "csv":
            text_file(tmp_path, "csv", "text,label\n" + "".join(f"a,{value}\n" for value in values))
        else:
            jsonl(tmp_path, *({"text": "a", "label": value} for value in values))
        return Source(str(tmp_path), None).read("train", COLUMNS).labels("label", names)

    assert labels([1, 2, 1], ("1", "2", "3")) == [0, 1, 0], "not classes 1 and 2, which are 2 and 3"
    assert labels([1, 2, 1], ("one", "two", "three")) == [1, 2, 1], "numbers of classes with other names"
    with pytest.raises(DataError, match=r"'label' must be one of the names 1, 2, 3, got '?0'?; .*labels\.json"):
        labels([1, 0], ("1", "2", "3"))
