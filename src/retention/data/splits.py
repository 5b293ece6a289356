"""Assignment of rows to training, validation and test splits, and the number of rows of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from retention.data.settings import require_count
from retention.errors import DataError, require

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Validation and test rows must not change with the run's seed, or seeds could not be compared.
_FIXED_SEED = 20250


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Source of each split and the number of rows it keeps.

    Attributes:
        names: source split per role: ``{"train": ..., "val": ... or None, "test": ...}``. Without a source for
            ``val``, ``val_size`` rows are held out of the train split and never trained on.
        train_size: rows to train on, drawn by ``seed``; None = all (without the held-out ones).
        val_size: rows to validate on; None = all (needs a source split for ``val``).
        test_size: rows to test on; None = all.
        seed: draws the training rows only. Held-out, validation and test rows are the same for every seed.

    Raises:
        ConfigError: a split has no source, two have the same, or a size is out of range.
    """

    names: Mapping[str, str | None]
    train_size: int | None
    val_size: int | None
    test_size: int | None
    seed: int

    def __post_init__(self) -> None:
        _require_split_names(self.names)
        require_count("train_size", self.train_size, optional=True)
        require_count("test_size", self.test_size, optional=True)
        require_count("val_size", self.val_size, optional=self.names["val"] is not None)

    def read(self, splits: Sequence[Split], load: Callable[[str], Dataset]) -> dict[Split, Dataset]:
        """Load the source splits that ``splits`` need, each once, and reduce them to their sizes.

        Raises:
            DataError: a source split has fewer rows than requested.
        """
        rows: dict[Split, Dataset] = {}
        if "test" in splits:
            rows["test"] = draw_rows(load(str(self.names["test"])), self.test_size, _FIXED_SEED, "test_size")
        val = self.names["val"]
        if "train" in splits or ("val" in splits and val is None):
            train = load(str(self.names["train"]))
            if val is None:
                train, rows["val"] = hold_out(train, self.val_size or 0)
            if "train" in splits:
                rows["train"] = draw_rows(train, self.train_size, self.seed, "train_size")
        if "val" in splits and val is not None:
            rows["val"] = draw_rows(load(val), self.val_size, _FIXED_SEED, "val_size")
        return {split: rows[split] for split in splits}


def hold_out(rows: Dataset, size: int, key: str = "val_size") -> tuple[Dataset, Dataset]:
    """Divide ``rows`` into (the rest, ``size`` held-out rows), the same way for every seed.

    Raises:
        DataError: nothing would be left to train on; the message names the config ``key``.
    """
    if size >= len(rows):
        raise DataError(f"{key}: {size} rows to hold out of {len(rows)} leave none to train on; lower {key}")
    order = np.random.default_rng(_FIXED_SEED).permutation(len(rows))
    return rows.select(np.sort(order[size:])), rows.select(np.sort(order[:size]))


def draw_rows(rows: Dataset, size: int | None, seed: int, key: str) -> Dataset:
    """Draw ``size`` rows without replacement, in their original order; None keeps all.

    For one seed, a smaller draw is part of a larger one.

    Raises:
        DataError: there are fewer rows than ``size``; the message names the config ``key``.
    """
    if size is None:
        return rows
    if size > len(rows):
        raise DataError(f"{key}: {size} rows requested, only {len(rows)} exist; lower {key} or set it to null for all")
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows.select(np.sort(order[:size]))


def _require_split_names(names: Any) -> None:
    """Check that ``names`` gives a source split of its own for train, test and, or None, for val."""
    require(
        isinstance(names, Mapping) and set(names) == set(SPLITS),
        "splits",
        f"must give exactly train, val (null = hold out of train) and test, got {names!r}",
    )
    for role in SPLITS:
        is_name = isinstance(names[role], str) and bool(names[role])
        require(
            is_name or (role == "val" and names[role] is None),
            f"splits.{role}",
            f"must be the name of a split{' or null' if role == 'val' else ''}, got {names[role]!r}",
        )
    require(
        len(set(names.values())) == len(SPLITS),
        "splits",
        f"must name different splits for train, val and test, or rows are scored that were trained on or chosen by; "
        f"got {dict(names)!r}; set task.data.splits.val=null to hold validation rows out of train",
    )
