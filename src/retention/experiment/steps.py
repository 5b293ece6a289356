"""Define the steps of a run that depend on the kind of its model; ``run.run_one`` does what all runs share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from retention.records import Record
from retention.records.schema import Result

CallbackType = TypeVar("CallbackType", bound=Callback)


@dataclass
class RunParts:
    """Objects that a run consists of, built before any data or weights are loaded.

    Attributes:
        callbacks: Lightning callbacks.
        loggers: Lightning loggers.
    """

    callbacks: list[Callback]
    loggers: list[Any]

    def data_files(self) -> list[Path]:
        """Return the existing local files that the run reads its rows from."""
        return []

    def check_output(self, path: Path) -> None:
        """Check that the finished model may be written to ``output``.

        Args:
            path: absolute path.

        Raises:
            RetentionError: it may not.
        """


def find_callback(parts: RunParts, kind: type[CallbackType]) -> CallbackType | None:
    """Return the callback of a class, the last one if there are several; None if there is none."""
    return next((each for each in reversed(parts.callbacks) if type(each) is kind), None)


class RunSteps(ABC):
    """Steps of the run of one model.

    Attributes:
        module: built by ``build``.
        data: Lightning data module, filled by ``build``.
        trains: False if there is nothing to train.
    """

    module: pl.LightningModule
    data: pl.LightningDataModule
    trains: bool = True

    @abstractmethod
    def build(self) -> None:
        """Read the data, and build the module with its starting weights."""

    @abstractmethod
    def load(self, content: dict[str, Any], *, tested: bool) -> None:
        """Copy the weights of a checkpoint into the module.

        Args:
            content: of ``read_checkpoint``.
            tested: True with ``mode=test``, False where a training goes on.

        Raises:
            CheckpointError: the checkpoint is of another model.
        """

    @abstractmethod
    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over what a training that is complete has left in its checkpoint, besides the weights."""

    @abstractmethod
    def write_start(self, folder: Path) -> None:
        """Write into the run folder what its checkpoints need beside them."""

    @abstractmethod
    def evaluate(self, trainer: pl.Trainer, trained: Mapping[str, int]) -> Sequence[Result]:
        """Score the model; of several results the main one is the last.

        Args:
            trainer: of the run.
            trained: number of ``epochs`` and ``steps`` of the training; empty if there was none.
        """

    @abstractmethod
    def write_results(self, folder: Path, records: Sequence[Record]) -> None:
        """Write the files of the finished run, before its record."""
