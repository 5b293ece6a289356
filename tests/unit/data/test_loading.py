from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from transformers import PreTrainedTokenizerFast

from retention.data.batching import Batch
from retention.tasks.classification.keywords import KeywordData

EPOCHS, ROWS, BATCH = 3, 19, 5
STEPS = 4  # per epoch


class Recorder(pl.LightningModule):
    """Record which rows each training step saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.seen.append(batch["index"].tolist())
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: Batch) -> None:
        del batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveOften(pl.Callback):
    """Save a checkpoint at each of the moments at which runs save theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: pl.Trainer, moment: str) -> None:
        trainer.save_checkpoint(self.folder / f"{moment}={trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.save(trainer, "batch")

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.save(trainer, "epoch")

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.save(trainer, "validation")


def make(tokenizer: PreTrainedTokenizerFast, **overrides: Any) -> KeywordData:
    settings = {"train_size": ROWS, "val_size": 6, "test_size": 7, "batch_size": BATCH, "seed": 4}
    data = KeywordData(max_length=130, eval_batch_size=3, **{**settings, **overrides})
    data.attach(tokenizer)
    return data


def fit(data: KeywordData, folder: Path, ckpt_path: Path | None = None) -> list[list[int]]:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        callbacks=[SaveOften(folder)],
        use_distributed_sampler=False,
    )
    module = Recorder()
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module.seen


def test_every_epoch_has_its_own_order(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    seen = fit(make(tokenizer), tmp_path)
    epochs = [seen[i : i + STEPS] for i in range(0, EPOCHS * STEPS, STEPS)]
    assert len(epochs) == EPOCHS
    assert all(sorted(row for batch in epoch for row in batch) == list(range(ROWS)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_resumed_run_sees_the_batches_of_an_uninterrupted_one(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    seen = fit(make(tokenizer), tmp_path / "whole")
    checkpoints = sorted((tmp_path / "whole").glob("*.ckpt"))
    done = {path: int(path.stem.split("=")[-1]) for path in checkpoints}
    assert set(done.values()) == set(range(1, EPOCHS * STEPS + 1))
    for path, steps in done.items():
        assert fit(make(tokenizer), tmp_path / path.stem, path) == seen[steps:], path.stem


def test_worker_processes_do_not_change_the_order(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    seen = fit(make(tokenizer), tmp_path / "whole")
    mid_epoch, epoch_end = (
        next((tmp_path / "whole").glob(f"{name}={step}.ckpt")) for name, step in (("batch", 6), ("epoch", 8))
    )
    assert fit(make(tokenizer, num_workers=1), tmp_path / "mid_epoch", mid_epoch) == seen[6:]
    assert fit(make(tokenizer, num_workers=1), tmp_path / "epoch_end", epoch_end) == seen[8:]


@pytest.mark.parametrize("built_first", [False, True])
def test_the_position_is_restored_before_and_after_the_loader_is_built(
    tokenizer: PreTrainedTokenizerFast, built_first: bool
) -> None:
    whole, resumed = make(tokenizer), make(tokenizer)
    for data in (whole, resumed):
        data.setup("fit")
    expected = [batch["input_ids"].tolist() for batch in whole.train_dataloader()]
    loader = resumed.train_dataloader() if built_first else None
    resumed.load_state_dict({"train": {"epoch": 0, "batches": 2}})
    left = [batch["input_ids"].tolist() for batch in (resumed.train_dataloader() if loader is None else loader)]
    assert left == expected[2:] != expected[: len(left)]


def test_iterating_a_loader_does_not_use_the_global_random_generator(tokenizer: PreTrainedTokenizerFast) -> None:
    data = make(tokenizer)
    data.setup("fit")
    data.setup("test")
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert len(list(loader)) == len(loader)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [1, 2])
def test_loaders_take_the_rows_of_this_process(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    tested: list[int] = []
    for rank in range(world_size):
        data = make(tokenizer)
        data.setup("test")
        monkeypatch.setattr(data, "_rank_and_world_size", lambda rank=rank: (rank, world_size))
        tested += [row for batch in data.test_dataloader() for row in batch["index"].tolist()]
    assert sorted(tested) == list(range(7))
