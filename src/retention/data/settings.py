"""Settings that every data module has, and the check of counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retention.errors import require

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
        num_workers: loader processes; 0 = load in the main process.
        seed: orders the training batches; at least 0.
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
        for key in ("num_workers", "seed"):
            require_count(key, getattr(self, key), low=0)
        require_provenance("provenance", self.provenance)


def require_count(key: str, value: object, *, low: int = 1, optional: bool = False) -> None:
    """Check that ``value`` is a whole number of at least ``low``, or None where ``optional``.

    Raises:
        ConfigError: it is not.
    """
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= low
    allowed = f"a whole number of at least {low}" + (" or null" if optional else "")
    require(is_count or (optional and value is None), key, f"must be {allowed}, got {value!r}")


def require_provenance(key: str, value: object) -> None:
    """Check that ``value`` is one of ``PROVENANCES``.

    Raises:
        ConfigError: it is not.
    """
    require(value in PROVENANCES, key, f"must be one of {', '.join(PROVENANCES)}, got {value!r}")
