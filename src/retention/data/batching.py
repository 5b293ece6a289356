"""Build batches of rows of similar length: samplers, and padding.

Rows of similar length share a batch, which keeps padding low. The order of training batches depends on (seed, epoch)
alone, so a resumed run sees the batches of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Sampler

from retention.errors import DataError

Batch = dict[str, Any]  # tensors; tasks that score texts add lists of strings
EncodedRow = Mapping[str, Any]


class ShuffledBuckets(Sampler[list[int]]):
    """Sampler of training batches: shuffled rows, grouped by length, in shuffled order.

    All rows are shuffled, cut into chunks of ``chunk_batches`` batches, sorted by length inside each chunk and cut
    into batches; then the batches are shuffled. With several processes, each takes every ``world_size``-th row of
    the same wide batch, so that all of them work on similar lengths and take the same number of steps.

    Attributes:
        epoch: epoch whose order is drawn next.
        first_batch: batches to skip at the start of the next pass (a run resumed in mid-epoch).
    """

    def __init__(
        self,
        lengths: ArrayLike,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        chunk_batches: int = 50,
    ) -> None:
        """Keep the lengths [rows] in tokens, and the rank of this process among ``world_size``."""
        self._lengths = np.asarray(lengths)
        self._wide = batch_size * world_size
        self._chunk = self._wide * chunk_batches
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self.epoch = 0
        self.first_batch = 0

    @property
    def sampler(self) -> ShuffledBuckets:
        """Return this object: the trainer calls ``set_epoch`` on the ``sampler`` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0-based, whose order the next pass follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of this process in a whole epoch."""
        return -(-self._padded_rows() // self._wide)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's batches of row numbers."""
        rng = np.random.default_rng([self._seed, self.epoch])
        # Every process needs the same number of rows, or the last step would wait forever: wrap around.
        order = np.resize(rng.permutation(len(self._lengths)), self._padded_rows())
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._chunk):
            chunk = order[start : start + self._chunk]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches.extend(chunk[i : i + self._wide] for i in range(0, len(chunk), self._wide))
        for batch_index in rng.permutation(len(batches))[self.first_batch :]:
            yield batches[batch_index][self._rank :: self._world_size].tolist()

    def _padded_rows(self) -> int:
        return -(-len(self._lengths) // self._world_size) * self._world_size


class SortedBatches(Sampler[list[int]]):
    """Sampler of evaluation batches: longest rows first, every row exactly once over all processes.

    The rows are distributed evenly, so batches may be a little smaller than ``batch_size`` but never empty, and all
    processes take the same number of steps.

    Raises:
        DataError: there are fewer rows than processes.
    """

    def __init__(self, lengths: ArrayLike, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        """Sort the rows of ``lengths`` [rows] and keep the batches of this process."""
        values = np.asarray(lengths)
        if len(values) < world_size:
            raise DataError(
                f"{len(values)} evaluation rows cannot be shared by {world_size} processes; use fewer processes"
            )
        steps = min(-(-len(values) // (batch_size * world_size)), len(values) // world_size)
        parts = np.array_split(np.argsort(-values, kind="stable"), steps * world_size)
        self._batches: list[list[int]] = [part.tolist() for part in parts[rank::world_size]]

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's batches of row numbers."""
        return iter(self._batches)


def pad_inputs(rows: Sequence[EncodedRow], pad_token_id: int) -> Batch:
    """Pad the token columns of encoded rows on the right, to the longest row of the batch.

    Args:
        rows: encoded rows with ``input_ids`` and ``protected_mask``, equally long lists per row.
        pad_token_id: token id of the padding.

    Returns:
        ``input_ids`` [B, N] long, ``attention_mask`` [B, N] long (1 = real), ``protected_mask`` [B, N] bool
        (True = never removed; False on padding).
    """
    shape = (len(rows), max(len(row["input_ids"]) for row in rows))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    protected_mask = np.zeros(shape, dtype=np.bool_)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        input_ids[i, :length] = row["input_ids"]
        attention_mask[i, :length] = 1
        protected_mask[i, :length] = row["protected_mask"]
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "protected_mask": torch.from_numpy(protected_mask),
    }


def integer_column(rows: Sequence[EncodedRow], column: str) -> Tensor:
    """Return the integers of ``column``, one per row, as a long tensor [B]."""
    return torch.tensor([row[column] for row in rows], dtype=torch.long)
