"""One split as token rows, kept in the cache folder of ``datasets``."""

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
    """The token rows of one split.

    Attributes:
        rows: one or more rows per document, as ``RetentionData.encode`` made them.
        lengths: [rows] tokens of each row.
        truncated: rows that were cut to ``max_length``.
    """

    rows: Dataset
    lengths: NDArray[np.int64]
    truncated: int


def cache_folder() -> Path:
    """Where what was computed from data is kept for further runs; a part of the cache of ``datasets``."""
    return Path(datasets.config.HF_DATASETS_CACHE, "retention")


def encode_split(
    documents: Dataset, encode: Encode, *, label: str, made_by: Sequence[object], at_once: int = 1000
) -> EncodedSplit:
    """Encode a split, or take its rows from the cache; rows without an ``index`` are numbered.

    Args:
        documents: the rows to encode.
        encode: columns and row numbers of some documents -> columns of their token rows.
        label: name of the split, for the progress bar and the file.
        made_by: what the token rows depend on besides the documents.
        at_once: documents given to ``encode`` together. Until the last of them is done, the rows are in a temporary
            file, so an interrupted run leaves nothing half-written in the cache.
    """
    # The key is ours: the hash that datasets takes of a tokenizer changes when it is used, and would miss the cache.
    key = Hasher.hash("/".join(str(part) for part in (documents._fingerprint, *made_by)))
    cache = cache_folder() / f"{label}-{key}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):  # of several processes the first encodes, the others read its file
        rows = documents.map(
            encode,
            batched=True,
            batch_size=at_once,
            writer_batch_size=at_once,
            with_indices=True,
            remove_columns=documents.column_names,
            cache_file_name=str(cache),
            new_fingerprint=key,
            desc=f"tokenizing {label}",
        )
    if "index" not in rows.column_names:  # several rows of one document: only now are they all there to be counted
        rows = rows.add_column("index", np.arange(len(rows)))
    lengths = np.asarray(rows["length"][:], dtype=np.int64)
    return EncodedSplit(rows, lengths, int(np.sum(rows["truncated"][:])))
