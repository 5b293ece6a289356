"""Objects that hold a key twice are refused by every reader of JSON files, with the file and the key."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.data.json_files import read_json
from retention.data.local_files import read_file
from retention.errors import CheckpointError, DataError
from retention.json_text import DuplicateKeyError, parse_json
from retention.pretrained.retention_files import read_pooling
from retention.pretrained.sentence_files import read_settings as read_sentence_settings
from retention.records import read_records
from retention.report.token_heatmap import write_token_heatmap

NESTED = '{\n "data": [{"id": 1}, {"id": 2}],\n "text": "{\\"id\\": 3, \\"id\\": 4}",\n "other": {"id": 5}\n}'


@pytest.mark.parametrize(
    ("text", "key", "line", "column"),
    [
        ('{"id": 1, "id": 1}', "id", 1, 11),
        ('{"a": [\n{"id": 1},\n{"id": 1, "x": {"id": 2},\n "id": 3}]}', "id", 4, 2),
        ('{"\\u0061": 1, "b": "}{\\"a\\":",\n  "a": {}}', "a", 2, 3),  # the same key, written in two ways
        ('{"": 1, "b": {"c": 2}, "" : 3}', "", 1, 24),
    ],
)
def test_repeated_keys_raise_with_their_position(text: str, key: str, line: int, column: int) -> None:
    assert key in json.dumps(json.loads(text))  # the json module accepts the text
    for form in (text, text.encode()):
        with pytest.raises(DuplicateKeyError) as raised:
            parse_json(form)
        assert raised.value.msg == f"the key {key!r} occurs twice in one object"
        assert (raised.value.lineno, raised.value.colno) == (line, column)


@pytest.mark.parametrize("text", [NESTED, '"{"', "[1, NaN, null]", '{"a": {"a": {"a": [{"a": 1}, {"a": 2}]}}, "A": 1}'])
def test_texts_without_repeated_keys_are_parsed_as_the_json_module_parses_them(text: str) -> None:
    assert repr(parse_json(text)) == repr(json.loads(text))
    assert repr(parse_json(text.encode("utf-16"))) == repr(json.loads(text))


@pytest.mark.parametrize("text", ["", "{", '{"a": 1,}', '{"a": "\ud800', b"\xff\xff{"])
def test_broken_texts_raise_the_error_of_the_json_module(text: str | bytes) -> None:
    with pytest.raises(ValueError) as expected:
        json.loads(text)
    with pytest.raises(ValueError) as raised:
        parse_json(text)
    assert str(raised.value) == str(expected.value) and not isinstance(raised.value, DuplicateKeyError)


def read_plain(path: Path) -> Any:
    return read_json(path)


def read_rows(path: Path) -> Any:
    return read_file(path, {"text_column": "kind"})


def read_result_records(path: Path) -> Any:
    return read_records([path])


def read_settings(path: Path) -> Any:
    return read_pooling(path.parents[1])


def read_sentence_transformers_folder(path: Path) -> Any:
    return read_sentence_settings(path.parent)


def read_profile(path: Path) -> Any:
    write_token_heatmap(path, path.with_suffix(".html"))


READERS: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "data.json": (read_plain, DataError),
    "data.json.gz": (read_plain, DataError),
    "train.jsonl": (read_rows, DataError),
    "train.jsonl.gz": (read_rows, DataError),
    "records.jsonl": (read_result_records, DataError),
    "record.json": (read_result_records, DataError),
    "retention/config.json": (read_settings, CheckpointError),
    "modules.json": (read_sentence_transformers_folder, CheckpointError),
    "retention_profile.json": (read_profile, DataError),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_file_line_and_key(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    read, error = READERS[name]
    repeated = '{"kind": "a", "extra": {"id": 1}}\n{"kind": "b", "extra": {"x": 1, "x": 2}}\n'
    if "jsonl" not in name:
        first, second, _ = repeated.split("\n")
        repeated = f"\n{second}" if name == "record.json" else f"[{first},\n{second}]"
    failures = []
    for text in (repeated, repeated.replace('"x": 2', '"y": 2')):  # the second is the negative control
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        try:
            read(path)
            failures.append("")
        except error as raised:
            failures.append(str(raised))
    assert "'x' occurs twice" in failures[0] and str(path) in failures[0]
    assert "line 2" in failures[0] or f"{path}:2" in failures[0]
    assert "twice" not in failures[1]
