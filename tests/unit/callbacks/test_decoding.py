"""Test the callbacks of decoders: cost of the cache, and the positions that it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tests.unit.cache.decoders import random_scorers, texts, tiny_decoder
from torch.utils.data import DataLoader

from retention.cache import CacheBudget, LearnedScores, retain_cache
from retention.callbacks import DecodingCost, KeptPositions
from retention.callbacks.decoding import bank_positions
from retention.errors import ConfigError

BUDGET = CacheBudget(size=12, sinks=2, window=4)


class DecoderStub(pl.LightningModule):
    """Module with what the callbacks read, whose steps do nothing."""

    def __init__(self, scores: LearnedScores | None = None) -> None:
        super().__init__()
        self.decoder = tiny_decoder("llama")
        self.scores = scores or random_scorers(self.decoder)
        self.budget, self.sample = BUDGET, texts("none", lengths=(40,)).input_ids

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing."""


class Newest(LearnedScores):
    """Score tokens by their position, so that the bank holds the newest ones."""

    def score(self, arrivals: Any) -> Any:
        return arrivals.ranks.float()


def run(module: pl.LightningModule, callback: Any, stage: str) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    [metrics] = getattr(trainer, stage)(module, DataLoader([0]), verbose=False)  # type: ignore[arg-type]
    return dict(metrics)


def newest(module: DecoderStub) -> Newest:
    return Newest(module.scores.hidden_size, len(module.scores.scorers))


@torch.no_grad()
def test_bank_positions_are_those_of_the_cache_without_sinks_and_window() -> None:
    module = DecoderStub()
    bank = bank_positions(module.decoder, module.scores, BUDGET, module.sample)
    with retain_cache(module.decoder, module.scores, BUDGET) as cache:
        module.decoder(module.sample, past_key_values=cache)
        kept = [positions[0].tolist() for positions in cache.kept]
    assert [positions.tolist() for positions in bank] == [row[2:-4] for row in kept]
    assert len({tuple(row) for row in kept}) > 1, "layers choose differently"


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_positions_and_quarters_are_logged(stage: str, tmp_path: Path) -> None:
    module = DecoderStub()
    module.scores = newest(module)
    callback = KeptPositions(dirpath=str(tmp_path))
    metrics = run(module, callback, stage)
    mean = sum(range(30, 36)) / 6 / 39  # six newest tokens before the window
    for layer in range(3):
        assert metrics[f"retention/mean_position/layer_{layer}"] == pytest.approx(mean)
    assert [metrics[f"retention/kept_quarter_{i}"] for i in (1, 2, 3, 4)] == [0.0, 0.0, 0.0, 1.0]
    assert callback.summary()["quarters"] == [0.0, 0.0, 0.0, 1.0]
    file = tmp_path / "kept_positions.json"
    assert file.exists() == (stage == "test")
    if stage == "test":
        assert json.loads(file.read_text()) == {"tokens": 40, "kept": {str(i): list(range(30, 36)) for i in range(3)}}


def test_other_scores_hold_other_positions(tmp_path: Path) -> None:
    """Negative control."""
    metrics = run(DecoderStub(), KeptPositions(dirpath=str(tmp_path)), "validate")
    assert metrics["retention/kept_quarter_4"] < 1.0 and metrics["retention/mean_position/layer_0"] < 0.8


def test_cost_of_the_bounded_cache_is_logged_beside_that_of_the_full_one() -> None:
    callback = DecodingCost(new_tokens=3)
    metrics = run(DecoderStub(), callback, "test")
    per_token = 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads of width 8, bytes
    assert metrics["perf/cache_bytes"] == 12 * per_token
    assert metrics["perf/full_cache_bytes"] == (40 + 4) * per_token
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s"):
        assert metrics[f"perf/{name}"] > 0 and metrics[f"perf/full_{name}"] > 0
    assert {f"perf/{name}" for name in callback.summary()} == set(metrics)


@pytest.mark.parametrize(
    ("make", "key"),
    [(lambda: DecodingCost(new_tokens=1), "new_tokens"), (lambda: KeptPositions(dirpath=""), "dirpath")],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()
