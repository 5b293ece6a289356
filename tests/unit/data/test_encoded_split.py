"""Test the cache of token rows: damaged files are noticed, named and replaced."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from retention.data.encoded_split import EncodedSplit, encode_split
from retention.errors import DataError

DOCUMENTS = Dataset.from_dict({"text": [f"text {number}" for number in range(200)]})


@pytest.fixture
def encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[EncodedSplit, int]]:
    """Return a function that encodes documents with a cache, and counts the encoded ones."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)

    def call() -> tuple[EncodedSplit, int]:
        calls: list[int] = []

        def rows(documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            calls.extend(indices)
            ids = [[index] * 7 for index in indices]
            return {"input_ids": ids, "length": [7] * len(ids), "truncated": [False] * len(ids), "index": indices}

        return encode_split(DOCUMENTS, rows, label="toy", key_parts=["k"]), len(calls)

    return call


def cache_file(folder: Path) -> Path:
    [file] = (folder / "retention").glob("*.arrow")
    return file


def flip_a_bit(content: bytes) -> bytes:
    middle = content.index(b"\x05\x00\x00\x00\x05\x00\x00\x00")  # within the token ids
    return content[:middle] + b"\x07" + content[middle + 1 :]


def test_rows_are_read_from_the_cache(encode: Any, tmp_path: Path) -> None:
    (first, encoded), (second, again) = encode(), encode()
    assert (encoded, again) == (200, 0)
    assert first.rows[:] == second.rows[:]
    cache_file(tmp_path).with_name(f"{cache_file(tmp_path).name}.crc32").unlink()  # as in earlier versions
    assert encode()[1] == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: bytes(len(content)),
        lambda content: content[:-100] + bytes(100),
        lambda content: b"\xa7" * len(content),
        flip_a_bit,
    ],
    ids=["empty", "half", "zeros", "zero_tail", "random", "one_bit"],
)
def test_damaged_cache_is_named_and_replaced(
    damage: Callable[[bytes], bytes], encode: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = encode()[0].rows[:]
    file = cache_file(tmp_path)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    split, encoded = encode()
    assert encoded == 200 and split.rows[:] == expected
    assert f"{file}: the cached token rows are damaged" in caplog.text
    assert encode()[1] == 0, "it heals"


def test_full_disk_is_reported_with_the_folder(encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("retention.data.encoded_split.write_checksum", full)
    with pytest.raises(DataError, match=rf"{tmp_path}/retention: .*No space left on device.*HF_DATASETS_CACHE"):
        encode()
