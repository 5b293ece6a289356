from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from retention.data.splits import SplitPlan, draw_rows, hold_out
from retention.errors import ConfigError, DataError

HELD_OUT: dict[str, str | None] = {"train": "train", "val": None, "test": "validation"}


def rows(count: int = 100) -> Dataset:
    return Dataset.from_dict({"n": list(range(count))})


def plan(**overrides: Any) -> SplitPlan:
    settings = {"names": HELD_OUT, "train_size": None, "val_size": 10, "test_size": None, "seed": 0}
    return SplitPlan(**{**settings, **overrides})


def numbers(dataset: Dataset) -> list[int]:
    return list(dataset["n"])


def test_held_out_rows_are_never_trained_on() -> None:
    parts = plan().read(("train", "val"), lambda split: rows())
    train, val = numbers(parts["train"]), numbers(parts["val"])
    assert len(val) == 10 and len(train) == 90
    assert sorted(train + val) == list(range(100))
    assert val != list(range(10)) and val != list(range(90, 100)), "drawn at random, not taken from an end"


def test_only_the_training_rows_change_with_the_seed() -> None:
    def read(seed: int, train_size: int) -> list[list[int]]:
        sized = plan(seed=seed, train_size=train_size, test_size=20)
        return [numbers(part) for part in sized.read(("train", "val", "test"), lambda split: rows()).values()]

    train, val, test = read(0, 30)
    other_train, other_val, other_test = read(1, 30)
    assert train != other_train
    assert (val, test) == (other_val, other_test)
    assert set(train) < set(read(0, 60)[0]), "a smaller draw is part of a larger one"
    assert read(0, 30) == [train, val, test]


def test_sources_are_read_once_and_only_where_needed() -> None:
    loaded: list[str] = []

    def load(split: str) -> Dataset:
        loaded.append(split)
        return rows()

    assert list(plan().read(("test",), load)) == ["test"]
    assert loaded == ["validation"]
    loaded.clear()
    assert list(plan().read(("val",), load)) == ["val"]
    assert loaded == ["train"]
    loaded.clear()
    plan().read(("train", "val"), load)
    assert loaded == ["train"]
    loaded.clear()
    rows_of = plan(names={"train": "a", "val": "b", "test": "c"}, val_size=None).read(("val",), load)
    assert loaded == ["b"] and len(rows_of["val"]) == 100


@pytest.mark.parametrize(("size", "left"), [(99, 1), (1, 99)])
def test_hold_out_sizes(size: int, left: int) -> None:
    assert [len(part) for part in hold_out(rows(), size)] == [left, size]


def test_requesting_more_rows_than_exist_raises() -> None:
    with pytest.raises(DataError, match=r"val_size: 100 rows to hold out of 100 leave none to train on"):
        hold_out(rows(), 100)
    with pytest.raises(DataError, match="train_size: 101 rows requested, only 100 exist"):
        draw_rows(rows(), 101, 0, "train_size")
    assert numbers(draw_rows(rows(), 100, 0, "train_size")) == list(range(100))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"train_size": 0}, "train_size"),
        ({"train_size": True}, "train_size"),
        ({"test_size": 1.5}, "test_size"),
        ({"val_size": None}, "val_size"),
        ({"names": {"train": "train", "test": "test"}}, "splits"),
        ({"names": ["train", "test"]}, "splits"),
        ({"names": {"train": None, "val": None, "test": "test"}}, "splits.train"),
        ({"names": {"train": "train", "val": "", "test": "test"}}, "splits.val"),
        ({"names": {"train": "test", "val": None, "test": "test"}}, "splits"),
        ({"names": {"train": "train", "val": "train", "test": "test"}}, "splits"),
        ({"names": {"train": "train", "val": "test", "test": "test"}}, "splits"),
    ],
)
def test_invalid_plan_raises_with_its_key(overrides: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan(**overrides)
    assert [problem.key for problem in raised.value.problems] == [key]


def test_folds_test_every_row_once() -> None:
    names = {"train": ["a", "b"], "val": None, "test": "c"}
    sources = {"a": [0, 1, 2, 3, 4], "b": [5, 6, 7], "c": [8, 9, 10]}

    def read(seed: int) -> list[list[int]]:
        divided = plan(names=names, val_size=2, seed=seed, folds=3)
        parts = divided.read(("train", "val", "test"), lambda split: Dataset.from_dict({"n": sources[split]}))
        return [numbers(part) for part in parts.values()]

    folds = [read(seed) for seed in range(3)]
    assert sorted(number for _, _, test in folds for number in test) == list(range(11))
    assert [len(test) for _, _, test in folds] == [4, 4, 3]
    for train, val, test in folds:
        assert len(val) == 2 and sorted(train + val + test) == list(range(11))
    assert read(3) == folds[0], "seed 3 tests the fold of seed 0"
    only_test = plan(names=names, seed=0, folds=3).read(
        ("test",), lambda split: Dataset.from_dict({"n": sources[split]})
    )
    assert numbers(only_test["test"]) == folds[0][2]
    with pytest.raises(DataError, match="folds: 12 parts of 11 rows"):
        plan(names=names, folds=12).read(("test",), lambda split: Dataset.from_dict({"n": sources[split]}))


def test_rows_of_several_sources_are_joined() -> None:
    names = {"train": ["a", "b"], "val": "c", "test": "d"}
    counts = {"a": 3, "b": 2, "c": 4, "d": 1}
    parts = plan(names=names, val_size=None).read(("train", "val", "test"), lambda split: rows(counts[split]))
    assert [numbers(part) for part in parts.values()] == [[0, 1, 2, 0, 1], [0, 1, 2, 3], [0]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"train": ["a", "c"], "val": None, "test": "c"}, "splits: must name different splits"),
        ({"train": ["a", "a"], "val": None, "test": "c"}, "splits: must name different splits"),
        ({"train": [], "val": None, "test": "c"}, "splits.train: must be the name of a split or a list of names, got"),
        ({"train": "a", "val": 3, "test": "c"}, "splits.val: must be .*, or null, got 3"),
    ],
)
def test_wrong_sources_are_refused(names: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(names=names)


def test_number_of_folds_is_checked() -> None:
    with pytest.raises(ConfigError, match="folds: must be a whole number of at least 2"):
        plan(folds=1)


def articles(*names: str) -> Dataset:
    return Dataset.from_dict({"n": list(range(len(names))), "article": list(names)})


def test_groups_are_held_out_as_a_whole() -> None:
    source = articles(*"aaabbbccddde")
    parts = plan(val_size=4, group_column="article").read(("train", "val"), lambda split: source)
    trained, held_out = set(parts["train"]["article"]), set(parts["val"]["article"])
    assert trained and held_out and not trained & held_out
    assert len(parts["val"]) >= 4 and len(parts["train"]) + len(parts["val"]) == 12
    sizes = {name: list("aaabbbccddde").count(name) for name in held_out}
    assert len(parts["val"]) - 4 < max(sizes.values()), "no group more than needed"


def test_rows_are_held_out_of_the_first_source_alone() -> None:
    names = {"train": ["a", "b"], "val": None, "test": "c"}
    sources = {"a": articles(*"ppqqrr"), "b": articles(*"xxxxxxxxxxxxxxxxp")}
    for column in (None, "article"):
        parts = plan(names=names, val_size=2, group_column=column).read(("train", "val"), lambda split: sources[split])
        assert "x" not in parts["val"]["article"]
    parts = plan(names=names, val_size=4, group_column="article").read(("train", "val"), lambda split: sources[split])
    assert not set(parts["train"]["article"]) & set(parts["val"]["article"]), "also where a later source has the group"


def test_folds_keep_groups_together() -> None:
    names = {"train": "a", "val": None, "test": "c"}
    sources = {"a": articles(*"ppqqrr"), "c": articles(*"qsss")}

    def read(seed: int) -> list[set[str]]:
        divided = plan(names=names, val_size=1, seed=seed, folds=2, group_column="article")
        return [set(part["article"]) for part in divided.read(("train", "val", "test"), lambda s: sources[s]).values()]

    for train, val, test in (read(0), read(1)):
        assert not (train & val or train & test or val & test)
    assert read(0)[2] | read(1)[2] == set("pqrs")
    with pytest.raises(DataError, match="folds: 5 parts of 4 groups"):
        plan(names=names, folds=5, group_column="article").read(("test",), lambda split: sources[split])


def test_a_single_group_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="val_size: 1 rows to hold out of 3 in 1 groups that stay together leave none"):
        plan(val_size=1, group_column="article").read(("train", "val"), lambda split: articles(*"aaa"))
