"""Count training steps, validation rows and evaluations for the trainer."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from retention.data.batching import ShuffledBuckets
from retention.data.loading import ResumableLoader


class StepCounter(pl.LightningDataModule):
    """Loaders of numbers: the phases of a training choose their examples themselves, so that they are resumed exactly.

    Args:
        steps: training steps per epoch.
        validation: number of validation rows.
        test: number of evaluations.
    """

    def __init__(self, steps: int, validation: int, test: int) -> None:
        super().__init__()
        self._counts = (steps, validation, test)
        self._loader: ResumableLoader | None = None
        self._position: dict[str, int] | None = None

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of as many items as an epoch has steps; a resumed one has those that are left."""
        steps = self._counts[0]
        order = ShuffledBuckets([1] * steps, 1, seed=0)
        self._loader = ResumableLoader(_range(steps), batch_sampler=order, collate_fn=_first)
        if self._position is not None:
            self._loader.load_state_dict(self._position)
            self._position = None
        return self._loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the numbers of the validation rows."""
        return DataLoader(_range(self._counts[1]), batch_size=1, collate_fn=_first)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the numbers of the evaluations."""
        return DataLoader(_range(self._counts[2]), batch_size=1, collate_fn=_first)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training within its epoch."""
        return {} if self._loader is None else {"train": self._loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader continue from a position."""
        self._position = state_dict.get("train")


def _range(count: int) -> Any:
    return list(range(count))


def _first(items: list[int]) -> int:
    return items[0]
