"""Settings that every data module has, and the check of counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retention.errors import require

MAX_COUNT = 2**31 - 1  # rows, tokens
MAX_WORKERS = 1024
PROVENANCES = ("benchmark", "subset", "stand_in", "generated")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings shared by all data modules.

    Attributes:
        name: short name of the data set, used in messages, records and file names.
        source_note: description of the rows in records and tables (``SST-2 (GLUE)``).
        max_length: tokens per document, special tokens included; longer documents are truncated and counted.
        batch_size: rows per training batch and process.
        eval_batch_size: rows per validation and test batch and process.
        num_workers: loader processes, at most 1024; 0 = load in the main process.
        seed: orders the training batches; in [0, 2^32).
        provenance: kind of the rows, one of ``PROVENANCES``: the benchmark itself, a part of it, other rows that stand
            in for it, or rows made by a program.

    Raises:
        ConfigError: a setting is out of range.
    """

    name: str
    source_note: str
    max_length: int
    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int
    provenance: str = "benchmark"

    def __post_init__(self) -> None:
        name_is_valid = isinstance(self.name, str) and re.fullmatch(r"[\w.-]+", self.name) is not None
        require(name_is_valid, "name", f"must be letters, digits, '_', '-' or '.', got {self.name!r}")
        has_note = isinstance(self.source_note, str) and bool(self.source_note.strip())
        require(has_note, "source_note", f"must be a text, got {self.source_note!r}")
        for key in ("max_length", "batch_size", "eval_batch_size"):
            require_count(key, getattr(self, key))
        require_count("num_workers", self.num_workers, low=0, high=MAX_WORKERS)
        require_count("seed", self.seed, low=0, high=2**32 - 1)
        require_provenance("provenance", self.provenance)


def require_count(key: str, value: object, *, low: int = 1, high: int = MAX_COUNT, optional: bool = False) -> None:
    """Check that ``value`` is a whole number in [``low``, ``high``], or None where ``optional``.

    Raises:
        ConfigError: it is not.
    """
    is_count = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    allowed = f"a whole number of at least {low}" + (f" and at most {high}" if high < MAX_COUNT else "")
    allowed += " or null" if optional else ""
    require(is_count or (optional and value is None), key, f"must be {allowed}, got {value!r}")


def require_provenance(key: str, value: object) -> None:
    """Check that ``value`` is one of ``PROVENANCES``.

    Raises:
        ConfigError: it is not.
    """
    require(value in PROVENANCES, key, f"must be one of {', '.join(PROVENANCES)}, got {value!r}")
