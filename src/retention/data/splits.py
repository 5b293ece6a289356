"""Assignment of rows to training, validation and test splits, and the number of rows of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset, concatenate_datasets

from retention.data.settings import require_count
from retention.errors import DataError, require

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SplitNames = Mapping[str, str | Sequence[str] | None]  # source split or splits of each role

MAX_FOLDS = 1000

# Validation and test rows must not change with the run's seed, or seeds could not be compared.
_FIXED_SEED = 20250


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Source of each split and the number of rows it keeps.

    Attributes:
        names: source split per role: ``{"train": ..., "val": ... or None, "test": ...}``, or a list of source splits
            whose rows are taken together. Without a source for ``val``, ``val_size`` rows are held out of the train
            split, of several the first, and never trained on.
        train_size: rows to train on, drawn by ``seed``; None = all (without the held-out ones).
        val_size: rows to validate on; None = all (needs a source split for ``val``).
        test_size: rows to test on; None = all.
        seed: draws the training rows only. Held-out, validation and test rows are the same for every seed, unless
            ``folds`` is given.
        folds: k >= 2 for cross-validation: the rows of the sources of train and test are divided at random, the same
            way always, into k parts of nearly equal size. Seed s tests part ``s mod k`` and trains on the others, so
            seeds 0 .. k-1 test every row once. None = the splits of the source.
        group_column: column of the rows that names their group, such as the article of a paragraph. Held-out rows and
            folds are whole groups then: ``val_size`` rows or, to complete the last group, more. None = each row alone.

    Raises:
        ConfigError: a split has no source, two have the same, or a size or number of folds is out of range.
    """

    names: SplitNames
    train_size: int | None
    val_size: int | None
    test_size: int | None
    seed: int
    folds: int | None = None
    group_column: str | None = None

    def __post_init__(self) -> None:
        _require_split_names(self.names)
        require_count("folds", self.folds, low=2, high=MAX_FOLDS, optional=True)
        require_count("train_size", self.train_size, optional=True)
        require_count("test_size", self.test_size, optional=True)
        require_count("val_size", self.val_size, optional=self.names["val"] is not None)

    def read(self, splits: Sequence[Split], load: Callable[[str], Dataset]) -> dict[Split, Dataset]:
        """Load the source splits that ``splits`` need, each once, and reduce them to their sizes.

        Raises:
            DataError: a source split has fewer rows than requested.
        """
        rows: dict[Split, Dataset] = {}
        holds_out = self.names["val"] is None
        needs_train = "train" in splits or ("val" in splits and holds_out)
        held_out_of = None  # all rows to train on
        if self.folds is not None and (needs_train or "test" in splits):
            train, test = self._fold(_join([*self._load("train", load), *self._load("test", load)]))
        else:
            parts = self._load("train", load) if needs_train else []
            held_out_of = len(parts[0]) if parts else None
            train = _join(parts) if parts else None
            test = _join(self._load("test", load)) if "test" in splits else None
        if test is not None and "test" in splits:
            rows["test"] = draw_rows(test, self.test_size, _FIXED_SEED, "test_size")
        if train is not None and needs_train:
            if holds_out:
                groups = self._groups(train)
                train, rows["val"] = hold_out(train, self.val_size or 0, groups=groups, first=held_out_of)
            if "train" in splits:
                rows["train"] = draw_rows(train, self.train_size, self.seed, "train_size")
        if "val" in splits and not holds_out:
            rows["val"] = draw_rows(_join(self._load("val", load)), self.val_size, _FIXED_SEED, "val_size")
        return {split: rows[split] for split in splits}

    def sources(self, split: Split) -> list[str]:
        """Return the names of the source splits that the rows of a split are taken from."""
        names = self.names[split]
        if names is None:
            return []
        return [names] if isinstance(names, str) else [str(name) for name in names]

    def _load(self, split: Split, load: Callable[[str], Dataset]) -> list[Dataset]:
        return [load(name) for name in self.sources(split)]

    def _groups(self, rows: Dataset) -> np.ndarray:
        """Return the number of each row's group, in order of appearance; without groups that of the row."""
        if self.group_column is None:
            return np.arange(len(rows))
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in rows[self.group_column]], dtype=int)

    def _fold(self, rows: Dataset) -> tuple[Dataset, Dataset]:
        """Divide ``rows`` into those to train on and the part that the seed tests."""
        folds, groups = self.folds or 1, self._groups(rows)
        count = len(np.unique(groups))
        if folds > count:
            of_rows = "" if self.group_column is None else f" (values of {self.group_column!r})"
            unit = "rows" if self.group_column is None else f"groups{of_rows}"
            raise DataError(f"folds: {folds} parts of {count} {unit} leave some empty; lower folds")
        order = np.random.default_rng(_FIXED_SEED + 1).permutation(count)  # not the order of ``hold_out``
        tested = np.isin(groups, order[self.seed % folds :: folds])
        return rows.select(np.flatnonzero(~tested)), rows.select(np.flatnonzero(tested))


def _join(parts: Sequence[Dataset]) -> Dataset:
    """Put the rows of source splits one after the other."""
    return parts[0] if len(parts) == 1 else concatenate_datasets(list(parts))


def hold_out(
    rows: Dataset, size: int, key: str = "val_size", *, groups: np.ndarray | None = None, first: int | None = None
) -> tuple[Dataset, Dataset]:
    """Divide ``rows`` into (the rest, ``size`` held-out rows), the same way for every seed.

    Args:
        rows: rows to divide.
        size: rows to hold out.
        key: config key of the size, for messages.
        groups: integer group of each row, [rows]; whole groups are held out until there are ``size`` rows or more. None
            = each row alone.
        first: hold out only groups that occur in this number of first rows; None = any.

    Raises:
        DataError: nothing would be left to train on; the message names the config ``key``.
    """
    numbers = np.arange(len(rows)) if groups is None else groups
    candidates, counts = np.unique(numbers[:first], return_counts=True)
    order = np.random.default_rng(_FIXED_SEED).permutation(len(candidates))
    taken = 1 + int(np.searchsorted(np.cumsum(counts[order]), size)) if size else 0
    held_out = np.isin(numbers, candidates[order[:taken]])
    if taken > len(order) or held_out.all():
        unit = "" if groups is None else f" in {len(candidates)} groups that stay together"
        of = len(rows) if first is None else first
        raise DataError(f"{key}: {size} rows to hold out of {of}{unit} leave none to train on; lower {key}")
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


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
        value = names[role]
        listed = [value] if isinstance(value, str) else value
        is_listed = isinstance(listed, Sequence) and bool(listed) and all(isinstance(n, str) and n for n in listed)
        require(
            is_listed or (role == "val" and value is None),
            f"splits.{role}",
            f"must be the name of a split or a list of names{', or null' if role == 'val' else ''}, got {value!r}",
        )
    listed = [name for value in names.values() if value for name in ([value] if isinstance(value, str) else value)]
    require(
        max(Counter(listed).values()) == 1,
        "splits",
        f"must name different splits for train, val and test, or rows are scored that were trained on or chosen by; "
        f"got {dict(names)!r}; set task.data.splits.val=null to hold validation rows out of train",
    )
