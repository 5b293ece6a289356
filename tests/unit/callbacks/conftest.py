"""Fixtures: a module that replays prepared reports, batches for it, and a trainer on two ranks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from retention.engine.report import ForwardReport

Batch = dict[str, Any]


def make_batch(lengths: list[int], *, first_index: int = 0, **extra: Any) -> Batch:
    """Build a right-padded batch; token ids are 10 * row + position."""
    width = max(lengths)
    mask = torch.tensor([[int(position < length) for position in range(width)] for length in lengths])
    ids = 10 * torch.arange(len(lengths)).unsqueeze(1) + torch.arange(width)
    index = torch.arange(first_index, first_index + len(lengths))
    labels = torch.zeros(len(lengths), dtype=torch.long)
    protected = torch.zeros_like(mask, dtype=torch.bool)
    batch = {"input_ids": ids, "attention_mask": mask, "protected_mask": protected, "labels": labels, "index": index}
    return batch | extra


class ReplayModule(pl.LightningModule):
    """Module whose steps read report and loss from the batch and call ``during`` with the name of the stage."""

    def __init__(self, gated_layers: tuple[int, ...] = (0, 2), rho: float = 0.5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.gated_layers = gated_layers
        self.multipliers: dict[int, float] = {}
        self.policy = SimpleNamespace(rho=rho, multipliers_by_layer=lambda: self.multipliers)
        self.target_keep_ratio = rho
        self.phase = "soft"
        self.last_report: ForwardReport | None = None
        self.last_predictions: Tensor | None = None
        self.last_prediction_rows: list[dict[str, Any]] = []
        self.during: Callable[[str], None] = lambda stage: None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self._replay(batch, "train")
        task_loss = torch.tensor(float(batch.get("loss", 0.0)))
        return {"loss": self.weight.sum() + task_loss + 100.0, "task_loss": task_loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._replay(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._replay(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def _replay(self, batch: Batch, stage: str) -> None:
        self.last_report = batch.get("report")
        self.last_predictions = batch.get("predictions")
        self.target_keep_ratio = batch.get("target_keep_ratio", self.target_keep_ratio)
        self.multipliers = batch.get("multipliers", self.multipliers)
        self.during(stage)


def loader(batches: list[Batch]) -> Any:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.fixture
def replay_module() -> type[ReplayModule]:
    return ReplayModule


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def loader_of() -> Callable[[list[Batch]], Any]:
    return loader


class TwoEqualRanks:
    """Strategy with a simulated second rank of equal values; ``other`` is its value for a maximum."""

    root_device = torch.device("cpu")

    def __init__(self, other: float = 0.0) -> None:
        self.other = other

    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        return tensor * 2 if reduce_op == "sum" else torch.clamp(tensor, min=self.other)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor])


@pytest.fixture
def two_ranks() -> Callable[..., Any]:
    """Return a trainer on two simulated ranks."""
    return lambda other=0.0: SimpleNamespace(strategy=TwoEqualRanks(other), is_global_zero=True, sanity_checking=False)
