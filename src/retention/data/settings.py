"""The settings that every data module has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retention.data.splits import require_count
from retention.errors import Checks


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What every data module is told.

    Attributes:
        name: short name of the data set, used in messages, records and file names.
        source_note: what the rows are, as a reader of results should see it (``SST-2 (GLUE)``).
        max_length: tokens per document, special ones included; longer documents are cut and counted.
        batch_size: rows per training batch and process.
        eval_batch_size: rows per validation and test batch and process.
        num_workers: loader processes; 0 = load in the main one.
        seed: orders the training batches; at least 0.
    """

    name: str
    source_note: str
    max_length: int
    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int

    def check(self, checks: Checks) -> None:
        """Record what is wrong with the settings."""
        named = isinstance(self.name, str) and re.fullmatch(r"[\w.-]+", self.name) is not None
        checks.require(named, "name", f"must be letters, digits, '_', '-' or '.', got {self.name!r}")
        noted = isinstance(self.source_note, str) and bool(self.source_note.strip())
        checks.require(noted, "source_note", f"must be a text, got {self.source_note!r}")
        for key in ("max_length", "batch_size", "eval_batch_size"):
            require_count(checks, key, getattr(self, key))
        for key in ("num_workers", "seed"):
            require_count(checks, key, getattr(self, key), low=0)
