"""Test that unusable checkpoints are refused wherever a checkpoint is used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from retention.errors import CheckpointError, ConfigError

ROUTES = {
    "resume": ["ckpt={}", "trainer.max_epochs=2"],
    "init": ["init={}"],
    "teacher": ["distill.weight=0.5", "distill.teacher={}"],
}
TEST = ["mode=test", "ckpt={}", "trainer.accelerator=cpu"]


def words(pattern: list[str], path: Path) -> list[str]:
    return [word.format(path) for word in pattern]


@pytest.mark.parametrize("pattern", [*ROUTES.values(), TEST], ids=[*ROUTES, "test"])
def test_missing_file_is_refused(pattern: list[str], start_bare: Any, start: Any, tmp_path: Path) -> None:
    begin = start_bare if pattern is TEST else start
    with pytest.raises(CheckpointError, match=r"gone\.ckpt: no such checkpoint"):
        begin(tmp_path / "run", *words(pattern, tmp_path / "gone.ckpt"))


@pytest.mark.parametrize("pattern", [*ROUTES.values(), TEST], ids=[*ROUTES, "test"])
def test_other_file_is_refused(pattern: list[str], start_bare: Any, start: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": {}}, path)
    begin = start_bare if pattern is TEST else start
    with pytest.raises(CheckpointError, match=r"weights\.ckpt: is not a checkpoint of this project"):
        begin(tmp_path / "run", *words(pattern, path))


def test_other_encoder_is_refused(finished: Any, start: Any, tmp_path: Path) -> None:
    typed = [*words(ROUTES["init"], finished.checkpoint), "backbone.fields.hidden_size=32"]  # a teacher may differ
    message = r"last\.ckpt: is a checkpoint of another model \(.* is \(\d+, 64\) there and \(\d+, 32\) here"
    with pytest.raises(CheckpointError, match=message):
        start(tmp_path, *typed)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("backbone.fields.hidden_size=32", "backbone.fields.hidden_size"),
        ("retention=random", "retention._target_"),
        ("retention.scorer_kind=linear", "retention.scorer_kind"),
        ("dual=ascent", "dual._target_"),
        ("optimizer.lr=1.0e-5", "optimizer.lr"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    change: str, key: str, finished: Any, start: Any, tmp_path: Path
) -> None:
    typed = [*words(ROUTES["resume"], finished.checkpoint), change, "retention.rho=0.25"]
    with pytest.raises(ConfigError, match="to resume its training, repeat the command with the old value") as caught:
        start(tmp_path, *typed)
    assert key in [problem.key for problem in caught.value.problems]
    assert not (tmp_path / "config.yaml").exists(), "nothing is written"


def test_testing_other_layers_is_refused(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"another model \(policy\.dual\.multipliers is"):
        start_bare(tmp_path, *words(TEST, finished.checkpoint), "retention.layers=[0]")


def test_resuming_a_finished_training_is_refused(finished: Any, start: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has already finished 1 epochs; raise trainer\.max_epochs"):
        start(tmp_path, f"ckpt={finished.checkpoint}")


def test_checkpoint_without_its_encoder_folder_is_refused(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "last.ckpt"
    moved.parent.mkdir()
    shutil.copy(finished.checkpoint, moved)
    with pytest.raises((CheckpointError, ConfigError), match=r"keep them together"):
        start_bare(tmp_path / "run", *words(TEST, moved))
