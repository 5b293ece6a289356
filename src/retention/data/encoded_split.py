"""Encode a split into token rows, stored in the cache folder of ``datasets``."""

from __future__ import annotations

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

    Args:
        documents: rows to encode.
        encode: columns and row numbers of some documents -> columns of their token rows.
        label: name of the split, for the progress bar and the file.
        key_parts: everything that the token rows depend on besides the documents; part of the cache key.
        batch_size: documents per call of ``encode``. Until the last call is done, the rows are in a temporary file,
            so an interrupted run leaves nothing half-written in the cache.
    """
    # Explicit key, because the hash that datasets computes of a tokenizer changes when the tokenizer is used.
    key = Hasher.hash("/".join(str(part) for part in (documents._fingerprint, *key_parts)))
    cache = cache_folder() / f"{label}-{key}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):  # of several processes the first encodes, the others read its file
        rows = documents.map(
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
    if "index" not in rows.column_names:  # several rows per document can be numbered only when all of them exist
        rows = rows.add_column("index", np.arange(len(rows)))
    lengths = np.asarray(rows["length"][:], dtype=np.int64)
    return EncodedSplit(rows, lengths, int(np.sum(rows["truncated"][:])))
