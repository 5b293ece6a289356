"""Encode a split into token rows, stored in the cache folder of ``datasets``."""

from __future__ import annotations

import errno
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher
from filelock import FileLock
from numpy.typing import NDArray

from retention.errors import DataError, first_line

log = logging.getLogger(__name__)

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

Encode = Callable[[dict[str, list[Any]], list[int]], dict[str, list[Any]]]


@dataclass(frozen=True)
class EncodedSplit:
    """Token rows of one split.

    Attributes:
        rows: one or more rows per document, as made by ``RetentionData.encode``.
        lengths: [rows] tokens of each row.
        truncated: number of rows that were truncated to ``max_length``.
    """

    rows: Dataset
    lengths: NDArray[np.int64]
    truncated: int


def cache_folder() -> Path:
    """Return the folder for results computed from data, inside the cache of ``datasets``."""
    return Path(datasets.config.HF_DATASETS_CACHE, "retention")


def encode_split(
    documents: Dataset, encode: Encode, *, label: str, key_parts: Sequence[object], batch_size: int = 1000
) -> EncodedSplit:
    """Encode a split, or load its rows from the cache; rows without an ``index`` are numbered.

    A damaged file in the cache is replaced with a warning.

    Args:
        documents: rows to encode.
        encode: columns and row numbers of some documents -> columns of their token rows.
        label: name of the split, for the progress bar and the file.
        key_parts: everything that the token rows depend on besides the documents; part of the cache key.
        batch_size: documents per call of ``encode``. Until the last call is done, the rows are in a temporary file,
            so an interrupted run leaves nothing half-written in the cache.

    Raises:
        DataError: the cache cannot be written, or ``encode`` refuses a document.
    """
    # Explicit key, because the hash that datasets computes of a tokenizer changes when the tokenizer is used.
    key = Hasher.hash("/".join(str(part) for part in (documents._fingerprint, *key_parts)))
    cache = cache_folder() / f"{label}-{key}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)

    def load() -> EncodedSplit:
        return _with_index(
            documents.map(
                encode,
                batched=True,
                batch_size=batch_size,
                writer_batch_size=batch_size,
                with_indices=True,
                remove_columns=documents.column_names,
                cache_file_name=str(cache),
                new_fingerprint=key,
                desc=f"tokenizing {label}",
            )
        )

    with FileLock(f"{cache}.lock"):  # of several processes the first encodes, the others read its file
        if cache.exists():
            try:
                verify_checksum(cache)
                return load()  # reads the file only, so that every error is one of the file
            except Exception as error:  # damaged files raise errors of many types
                reason = first_line(error)
                log.warning("%s: the cached token rows are damaged (%s) and are made again", cache, reason)
                cache.unlink(missing_ok=True)
        try:
            split = load()
            write_checksum(cache)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise DataError(
                f"{cache.parent}: the token rows cannot be written ({error.strerror}); free some space, or set "
                "HF_DATASETS_CACHE to another folder"
            ) from error
    return split


def _with_index(rows: Dataset) -> EncodedSplit:
    if "index" not in rows.column_names:  # several rows per document can be numbered only when all of them exist
        rows = rows.add_column("index", np.arange(len(rows)))
    lengths = np.asarray(rows["length"][:], dtype=np.int64)
    return EncodedSplit(rows, lengths, int(np.sum(rows["truncated"][:])))


def write_checksum(file: Path) -> None:
    """Write the CRC-32 of a file into a small file beside it."""
    temporary = _checksum_file(file).with_suffix(".tmp")
    temporary.write_text(f"{_checksum(file):08x}\n")
    os.replace(temporary, _checksum_file(file))


def verify_checksum(file: Path) -> None:
    """Raise ``ValueError`` if a file differs from when its checksum was written; one without a checksum is accepted."""
    stored = _checksum_file(file)
    if stored.exists() and stored.read_text().strip() != f"{_checksum(file):08x}":
        raise ValueError("its checksum differs")


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.crc32")


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
