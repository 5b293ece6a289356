"""One checkpoint serves any budget; gates are trained on a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retention.errors import CheckpointError, ConfigError


def asking(folder: Path) -> tuple[str, ...]:
    """What asks for a test of the run in a folder."""
    return "mode=test", f"ckpt={folder}/checkpoints/last.ckpt", "trainer.accelerator=cpu"


def test_one_checkpoint_is_tested_at_every_budget(start: Any, start_bare: Any, tmp_path: Path) -> None:
    start(tmp_path / "run", "budgets.sampled=1", "budgets.low=0.1", "budgets.high=0.7")
    shares = {}
    for rho in (0.7, 0.3):
        [record] = start_bare(tmp_path / f"at{rho}", *asking(tmp_path / "run"), f"retention.rho={rho}")
        assert record["rho"] == rho
        shares[rho] = record["keep_ratio"]["mean"]
    assert shares[0.7] == pytest.approx(0.7, abs=0.03) and shares[0.3] == pytest.approx(0.3, abs=0.03)


def test_a_checkpoint_of_one_budget_names_the_scorers_it_lacks(start: Any, start_bare: Any, tmp_path: Path) -> None:
    start(tmp_path / "run", "retention.rho=0.8")
    with pytest.raises(CheckpointError, match=r"has no scorer after layer 0.*budgets\.sampled"):
        start_bare(tmp_path / "test", *asking(tmp_path / "run"), "retention.rho=0.3")


def test_gates_on_a_frozen_encoder(start: Any, dense: Any, weights_of: Any, tmp_path: Path) -> None:
    start(tmp_path, "freeze=model", f"init={dense.checkpoint}")
    before, after = weights_of(dense.checkpoint), weights_of(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(name.startswith("policy.scorers.") for name in after)


def test_freezing_needs_something_worth_keeping(start: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"freeze: freeze=encoder needs weights that are worth keeping"):
        start(tmp_path, "freeze=encoder")
