"""Build data loaders; a training loader can be resumed from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

from retention.data.batching import Batch, EncodedRow, ShuffledBuckets

Collate = Callable[[Sequence[EncodedRow]], Batch]


def make_loader(
    rows: Dataset, batches: Sampler[list[int]], *, collate: Collate, num_workers: int, seed: int
) -> DataLoader[Any]:
    """Build a loader over encoded rows; with the training order (``ShuffledBuckets``) it can be resumed.

    The loader has a separate random generator: starting a pass must not draw from torch's global one, or evaluation
    would change the dropout masks of the training that follows.
    """
    options: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator().manual_seed(seed),
    }
    if isinstance(batches, ShuffledBuckets):
        return ResumableLoader(rows, batch_sampler=batches, **options)
    return DataLoader(rows, batch_sampler=batches, **options)


class ResumableLoader(DataLoader[Any]):
    """Loader over ``ShuffledBuckets`` that counts the batches it has returned.

    The trainer stores ``state_dict`` in its checkpoints. A run resumed in mid-epoch then gets the rest of that
    epoch's batches; a run resumed between epochs starts the next epoch.
    """

    def __init__(self, rows: Dataset, *, batch_sampler: ShuffledBuckets, **options: Any) -> None:
        """Accept the arguments of ``DataLoader``."""
        super().__init__(rows, batch_sampler=batch_sampler, **options)
        self._order = batch_sampler
        self._position = (0, 0)
        self._resume_at: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of the order's current epoch.

        This must be a generator: the trainer creates the iterator before it sets the epoch, and worker processes
        would already fetch batches of the wrong epoch.
        """
        epoch = self._order.epoch
        skipped = self._resume_at[1] if self._resume_at is not None and self._resume_at[0] == epoch else 0
        self._resume_at = None
        self._position = (epoch, skipped)
        self._order.first_batch = skipped
        for count, batch in enumerate(super().__iter__(), start=skipped + 1):
            self._position = (epoch, count)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the current epoch and the number of its batches returned so far."""
        epoch, count = self._position
        return {"epoch": epoch, "batches": count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make the next pass over that epoch skip the batches already returned."""
        self._resume_at = (state_dict["epoch"], state_dict["batches"])
        self._position = self._resume_at
