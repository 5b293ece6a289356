from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retention.data.batching import ShuffledBuckets, SortedBatches, integer_column, pad_inputs
from retention.errors import DataError

LENGTHS = np.random.default_rng(3).integers(3, 60, size=203)


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def shards(lengths: np.ndarray, batch_size: int, world_size: int, epoch: int = 0) -> list[list[list[int]]]:
    orders = [
        ShuffledBuckets(lengths, batch_size, seed=1, rank=rank, world_size=world_size, chunk_batches=3)
        for rank in range(world_size)
    ]
    for order in orders:
        order.set_epoch(epoch)
    return [list(order) for order in orders]


@given(rows=st.integers(1, 70), batch_size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_training_batches_have_every_row_once(rows: int, batch_size: int, epoch: int) -> None:
    order = ShuffledBuckets(LENGTHS[:rows], batch_size, seed=5, chunk_batches=4)
    order.set_epoch(epoch)
    batches = list(order)
    assert sorted(flat(batches)) == list(range(rows))
    assert len(batches) == len(order)
    assert all(0 < len(batch) <= batch_size for batch in batches)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = ShuffledBuckets(LENGTHS, 8, seed=1)
    again = ShuffledBuckets(LENGTHS, 8, seed=1)
    epoch_0 = list(first)
    torch.manual_seed(99)
    assert list(again) == epoch_0 == list(first)
    first.set_epoch(1)
    epoch_1 = list(first)
    assert epoch_1 != epoch_0
    again.set_epoch(1)  # without having run epoch 0: what a resumed run does
    assert list(again) == epoch_1
    assert list(ShuffledBuckets(LENGTHS, 8, seed=2)) != epoch_0
    swapped = ShuffledBuckets(LENGTHS, 8, seed=0)
    swapped.set_epoch(1)
    assert list(swapped) != epoch_0, "seed 0, epoch 1 must not be seed 1, epoch 0"


def test_batches_have_similar_lengths_in_random_order() -> None:
    batches = list(ShuffledBuckets(LENGTHS, 8, seed=1))
    range_in_batch = np.mean([np.ptp(LENGTHS[batch]) for batch in batches])
    shuffled = np.array_split(np.random.default_rng(0).permutation(len(LENGTHS)), len(batches))
    assert range_in_batch < 0.2 * np.mean([np.ptp(LENGTHS[batch]) for batch in shuffled])
    means = [LENGTHS[batch].mean() for batch in batches]
    assert means != sorted(means) and means != sorted(means, reverse=True)


def test_batches_differ_between_epochs() -> None:
    order = ShuffledBuckets(LENGTHS, 8, seed=1, chunk_batches=3)
    first = {frozenset(batch) for batch in order}
    order.set_epoch(1)
    assert len(first & {frozenset(batch) for batch in order}) < len(first) / 4


def test_first_batch_skips_the_start() -> None:
    order = ShuffledBuckets(LENGTHS, 8, seed=1)
    whole = list(order)
    order.first_batch = 5
    assert list(order) == whole[5:]
    assert len(order) == len(whole)


@given(rows=st.integers(1, 70), batch_size=st.integers(1, 5), world_size=st.integers(1, 4))
def test_processes_take_equally_many_rows_and_lose_none(rows: int, batch_size: int, world_size: int) -> None:
    per_rank = shards(LENGTHS[:rows], batch_size, world_size, epoch=2)
    sizes = [[len(batch) for batch in batches] for batches in per_rank]
    assert all(size == sizes[0] for size in sizes)
    taken = [row for batches in per_rank for row in flat(batches)]
    assert set(taken) == set(range(rows))
    assert len(taken) - rows < world_size, "at most one repeated row per process"


def test_processes_work_on_similar_lengths() -> None:
    per_rank = shards(LENGTHS, 8, 2)
    gaps = [abs(LENGTHS[a].mean() - LENGTHS[b].mean()) for a, b in zip(*per_rank, strict=True)]
    assert np.mean(gaps) < 2


@given(rows=st.integers(1, 70), batch_size=st.integers(1, 9), world_size=st.integers(1, 4))
def test_evaluation_has_every_row_once_over_all_processes(rows: int, batch_size: int, world_size: int) -> None:
    if rows < world_size:
        with pytest.raises(DataError, match="cannot be shared"):
            SortedBatches(LENGTHS[:rows], batch_size, world_size=world_size)
        return
    per_rank = [
        list(SortedBatches(LENGTHS[:rows], batch_size, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert sorted(row for batches in per_rank for row in flat(batches)) == list(range(rows))
    assert len({len(batches) for batches in per_rank}) == 1, "an uneven number of steps hangs"
    biggest = max(len(batch) for batches in per_rank for batch in batches)
    assert biggest <= (batch_size if world_size == 1 else max(batch_size, 2))


def test_evaluation_goes_from_long_to_short() -> None:
    lengths = LENGTHS[flat(list(SortedBatches(LENGTHS, 16)))]
    assert list(lengths) == sorted(LENGTHS, reverse=True)


def test_padding_is_on_the_right_and_never_protected() -> None:
    rows = [
        {"input_ids": [2, 9, 3], "protected_mask": [True, False, True], "label": 1},
        {"input_ids": [2, 8, 7, 6, 3], "protected_mask": [True, False, False, False, True], "label": 0},
    ]
    batch = pad_inputs(rows, pad_token_id=11)
    assert batch["input_ids"].tolist() == [[2, 9, 3, 11, 11], [2, 8, 7, 6, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["protected_mask"].tolist() == [
        [True, False, True, False, False],
        [True, False, False, False, True],
    ]
    assert [batch[key].dtype for key in batch] == [torch.long, torch.long, torch.bool]
    assert integer_column(rows, "label").tolist() == [1, 0]
