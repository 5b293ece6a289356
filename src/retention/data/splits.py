"""Which rows are for training, validation and testing, and how many of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from retention.errors import Checks, DataError

Split = Literal["train", "val", "test"]

# Validation and test rows must not change with the run's seed, or seeds could not be compared.
_FIXED_SEED = 20250


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Where each split comes from and how many rows it keeps.

    Attributes:
        names: source split per role: ``{"train": ..., "val": ... or None, "test": ...}``. Without a source for
            ``val``, ``val_size`` rows are held out of the train split and never trained on.
        train_size: rows to train on, drawn by ``seed``; None = all (without the held-out ones).
        val_size: rows to validate on; None = all (needs a source split for ``val``).
        test_size: rows to test on; None = all.
        seed: draws the training rows only. Held-out, validation and test rows are the same for every seed.
    """

    names: Mapping[str, str | None]
    train_size: int | None
    val_size: int | None
    test_size: int | None
    seed: int

    def check(self, checks: Checks) -> None:
        """Record what is wrong with the plan."""
        require_split_names(checks, self.names)
        require_count(checks, "train_size", self.train_size, optional=True)
        require_count(checks, "test_size", self.test_size, optional=True)
        held_out = isinstance(self.names, Mapping) and self.names.get("val") is None
        require_count(checks, "val_size", self.val_size, optional=not held_out)

    def read(self, wanted: Sequence[Split], load: Callable[[str], Dataset]) -> dict[Split, Dataset]:
        """Load the source splits that ``wanted`` needs, each once, and cut them to size.

        Raises:
            DataError: a source split has fewer rows than asked for.
        """
        found: dict[Split, Dataset] = {}
        if "test" in wanted:
            found["test"] = draw_rows(load(str(self.names["test"])), self.test_size, _FIXED_SEED, "test_size")
        val = self.names["val"]
        if "train" in wanted or ("val" in wanted and val is None):
            train = load(str(self.names["train"]))
            if val is None:
                train, found["val"] = hold_out(train, self.val_size or 0)
            if "train" in wanted:
                found["train"] = draw_rows(train, self.train_size, self.seed, "train_size")
        if "val" in wanted and val is not None:
            found["val"] = draw_rows(load(val), self.val_size, _FIXED_SEED, "val_size")
        return {split: found[split] for split in wanted}


def hold_out(rows: Dataset, size: int) -> tuple[Dataset, Dataset]:
    """Split ``rows`` into (the rest, ``size`` held-out rows), the same way for every seed.

    Raises:
        DataError: nothing would be left to train on.
    """
    if size >= len(rows):
        raise DataError(f"val_size: {size} rows to hold out of {len(rows)} leave none to train on; lower val_size")
    order = np.random.default_rng(_FIXED_SEED).permutation(len(rows))
    return rows.select(np.sort(order[size:])), rows.select(np.sort(order[:size]))


def draw_rows(rows: Dataset, size: int | None, seed: int, key: str) -> Dataset:
    """Draw ``size`` rows without repetition, in their own order; None keeps all.

    For one seed, a smaller draw is part of a larger one.

    Raises:
        DataError: there are fewer rows than ``size``; the message names the config ``key``.
    """
    if size is None:
        return rows
    if size > len(rows):
        raise DataError(f"{key}: {size} rows asked, {len(rows)} there are; lower {key} or set it to null for all")
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows.select(np.sort(order[:size]))


def require_count(checks: Checks, key: str, value: object, *, low: int = 1, optional: bool = False) -> None:
    """Record a problem unless ``value`` is a whole number of at least ``low`` (or None where that is allowed)."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= low
    allowed = f"a whole number of at least {low}" + (" or null" if optional else "")
    checks.require(whole or (optional and value is None), key, f"must be {allowed}, got {value!r}")


def require_split_names(checks: Checks, names: Any) -> None:
    """Record a problem unless ``names`` gives a source split for train, test and, or None, for val."""
    if not checks.require(
        isinstance(names, Mapping) and set(names) == {"train", "val", "test"},
        "splits",
        f"must give exactly train, val (null = hold out of train) and test, got {names!r}",
    ):
        return
    for role in ("train", "val", "test"):
        usable = isinstance(names[role], str) and bool(names[role])
        checks.require(
            usable or (role == "val" and names[role] is None),
            f"splits.{role}",
            f"must be the name of a split{' or null' if role == 'val' else ''}, got {names[role]!r}",
        )
