"""Test checkpoints for a range of budgets, and gates on a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retention.errors import CheckpointError, ConfigError


def overrides_to_test(folder: Path) -> tuple[str, ...]:
    """Return the overrides that test the run in a folder."""
    return "mode=test", f"ckpt={folder}/checkpoints/last.ckpt", "trainer.accelerator=cpu"


def test_one_checkpoint_at_several_budgets(start: Any, start_bare: Any, tmp_path: Path) -> None:
    start(tmp_path / "run", "budgets.sampled=1", "budgets.low=0.1", "budgets.high=0.7")
    achieved = {}
    for rho in (0.7, 0.3):
        [record] = start_bare(tmp_path / f"at{rho}", *overrides_to_test(tmp_path / "run"), f"retention.rho={rho}")
        assert record["rho"] == rho
        achieved[rho] = record["keep_ratio"]["mean"]
    assert achieved[0.7] == pytest.approx(0.7, abs=0.03) and achieved[0.3] == pytest.approx(0.3, abs=0.03)


def test_checkpoint_of_one_budget_lacks_scorers_for_another(start: Any, start_bare: Any, tmp_path: Path) -> None:
    start(tmp_path / "run", "retention.rho=0.8")
    with pytest.raises(CheckpointError, match=r"has no scorer after layer 0.*budgets\.sampled"):
        start_bare(tmp_path / "test", *overrides_to_test(tmp_path / "run"), "retention.rho=0.3")


def test_freeze_model_trains_the_policy_only(start: Any, dense: Any, weights_of: Any, tmp_path: Path) -> None:
    start(tmp_path, "freeze=model", f"init={dense.checkpoint}")
    before, after = weights_of(dense.checkpoint), weights_of(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(name.startswith("policy.scorers.") for name in after)


def test_freezing_needs_trained_weights(start: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"freeze: freeze=encoder needs trained weights"):
        start(tmp_path, "freeze=encoder")
