"""Checkpoints that cannot be used are refused by name, wherever one is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.errors import CheckpointError, ConfigError

ASKED = {
    "resume": ["ckpt={}", "trainer.max_epochs=2"],
    "init": ["init={}"],
    "teacher": ["distill.weight=0.5", "distill.teacher={}"],
}
TEST = ["mode=test", "ckpt={}", "trainer.accelerator=cpu"]


def words(pattern: list[str], path: Path) -> list[str]:
    return [word.format(path) for word in pattern]


@pytest.mark.parametrize("pattern", [*ASKED.values(), TEST], ids=[*ASKED, "test"])
def test_no_such_file(pattern: list[str], start_bare: Any, start: Any, tmp_path: Path) -> None:
    begin = start_bare if pattern is TEST else start
    with pytest.raises(CheckpointError, match=r"gone\.ckpt: no such checkpoint"):
        begin(tmp_path / "run", *words(pattern, tmp_path / "gone.ckpt"))


@pytest.mark.parametrize("pattern", [*ASKED.values(), TEST], ids=[*ASKED, "test"])
def test_no_checkpoint(pattern: list[str], start_bare: Any, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": {}}, path)
    begin = start_bare if pattern is TEST else start
    with pytest.raises(CheckpointError, match=r"weights\.ckpt: is not a checkpoint of this project"):
        begin(tmp_path / "run", *words(pattern, path))


@pytest.mark.parametrize("pattern", ASKED.values(), ids=ASKED)
def test_another_encoder(pattern: list[str], finished: Any, start: Any, tmp_path: Path) -> None:
    typed = [*words(pattern, finished.checkpoint), "backbone.fields.hidden_size=32"]
    message = r"last\.ckpt: is a checkpoint of another model \(.* is \(\d+, 64\) there and \(\d+, 32\) here"
    with pytest.raises(CheckpointError, match=message):
        start(tmp_path, *typed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("retention=random", r"unexpected policy\."),
        ("retention.scorer_kind=linear", r"another model \(.*policy\.scorers"),
        ("dual=ascent", r"missing policy\.dual\.steps"),
    ],
)
def test_another_policy_cannot_go_on(change: str, message: str, finished: Any, start: Any, tmp_path: Path) -> None:
    typed = [*words(ASKED["resume"], finished.checkpoint), change, "retention.rho=0.25"]
    with pytest.raises(CheckpointError, match=message):
        start(tmp_path, *typed)


def test_another_policy_cannot_be_tested(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"another model \(policy\.dual\.multipliers is"):
        start_bare(tmp_path, *words(TEST, finished.checkpoint), "retention.layers=[0]")


def test_a_finished_training_does_not_go_on(finished: Any, start: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has already finished 1 epochs; raise trainer\.max_epochs"):
        start(tmp_path, f"ckpt={finished.checkpoint}")


def test_a_checkpoint_apart_from_its_run_folder(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "last.ckpt"
    moved.parent.mkdir()
    shutil.copy(finished.checkpoint, moved)
    with pytest.raises((CheckpointError, ConfigError), match=r"keep them together"):
        start_bare(tmp_path / "run", *words(TEST, moved))
