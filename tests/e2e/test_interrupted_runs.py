"""Test runs that are killed: what is on the disk, and that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.interruption import EPOCHS, STEPS, TYPED, content, predictions, same_weights

from retention.data.base import RetentionData
from retention.errors import CheckpointError


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_run_resumed_in_mid_epoch_equals_the_uninterrupted_one(
    step: int, two_epochs: Any, start: Any, tmp_path: Path
) -> None:
    folder, record = two_epochs.folder, two_epochs.record
    [checkpoint] = (folder / "checkpoints").glob(f"*step={step}.ckpt")
    assert content(checkpoint)["global_step"] == step
    [resumed] = start(tmp_path, *TYPED, f"ckpt='{checkpoint}'")
    assert content(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == EPOCHS * STEPS
    assert same_weights(folder / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "last.ckpt")
    assert predictions(tmp_path) == predictions(folder)
    assert resumed["metrics"] == record["metrics"] and resumed["keep_ratio"] == record["keep_ratio"]


def test_resumed_run_differs_if_the_position_in_the_data_is_lost(
    two_epochs: Any, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = two_epochs.folder
    monkeypatch.setattr(RetentionData, "load_state_dict", lambda self, state: None)
    [checkpoint] = (folder / "checkpoints").glob("*step=6.ckpt")
    start(tmp_path, *TYPED, f"ckpt='{checkpoint}'")
    assert not same_weights(folder / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "last.ckpt")


def test_run_killed_in_its_last_epoch_is_resumed_from_the_end_of_the_epoch_before(
    two_epochs: Any, send_signal: Any, start: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    killed = send_signal(signal.SIGKILL, "training_step", STEPS + 3, *TYPED, f"hydra.run.dir={folder}")
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "record.json").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert content(folder / "checkpoints" / "last.ckpt")["global_step"] == STEPS
    [record] = start(folder, *TYPED, "ckpt=last")
    assert same_weights(two_epochs.checkpoint, folder / "checkpoints" / "last.ckpt")
    assert predictions(folder) == predictions(two_epochs.folder) and record["metrics"] == two_epochs.record["metrics"]
    again = json.loads((folder / "record.json").read_text())
    [same] = start(folder, *TYPED)
    assert same == again, "the resumed run counts as finished, with or without ckpt"


@pytest.mark.slow
def test_checkpoint_of_an_interrupted_run_is_kept_when_the_run_starts_anew(
    send_signal: Any, start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    send_signal(signal.SIGKILL, "training_step", STEPS + 1, *TYPED, f"hydra.run.dir={folder}")
    with caplog.at_level("WARNING"):
        start(folder, *TYPED)
    assert content(folder / "checkpoints" / "interrupted.ckpt")["global_step"] == STEPS
    assert content(folder / "checkpoints" / "last.ckpt")["global_step"] == EPOCHS * STEPS
    assert "interrupted run" in caplog.text and "ckpt=last" in caplog.text


@pytest.mark.slow
def test_checkpoints_within_an_epoch_follow_the_clock(send_signal: Any, tmp_path: Path) -> None:
    for minutes, step in (("1e-9", 2), ("null", None)):
        folder = tmp_path / minutes
        typed = (f"callbacks.checkpoint.every_n_minutes={minutes}", f"hydra.run.dir={folder}")
        send_signal(signal.SIGKILL, "training_step", 3, *TYPED, *typed)
        found = folder / "checkpoints" / "last.ckpt"
        assert (content(found)["global_step"] if found.exists() else None) == step


@pytest.mark.slow
def test_gradient_accumulation_is_not_cut_by_a_checkpoint(send_signal: Any, start: Any, tmp_path: Path) -> None:
    typed = (*TYPED, "trainer.accumulate_grad_batches=2", "callbacks.checkpoint.every_n_minutes=1e-9")
    start(tmp_path / "whole", *typed)
    folder = tmp_path / "run"
    send_signal(signal.SIGKILL, "training_step", STEPS + 4, *typed, f"hydra.run.dir={folder}")
    stopped_at = content(folder / "checkpoints" / "last.ckpt")
    assert stopped_at["global_step"] == 3 and stopped_at["KeywordData"]["train"] == {"epoch": 1, "batches": 2}
    start(folder, *typed, "ckpt=last")
    assert same_weights(tmp_path / "whole" / "checkpoints" / "last.ckpt", folder / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_run_killed_in_its_test_is_not_trained_again(
    two_epochs: Any, send_signal: Any, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    killed = send_signal(signal.SIGKILL, "test_step", 1, *TYPED, f"hydra.run.dir={folder}")
    assert killed.returncode == -signal.SIGKILL and not (folder / "record.json").exists()
    monkeypatch.setattr(
        "retention.training.module.RetentionModule.training_step", lambda *_: pytest.fail("trained again")
    )
    shutil.copytree(folder, tmp_path / "copy")
    [record] = start(folder, *TYPED, "ckpt=last")
    assert record["metrics"] == two_epochs.record["metrics"] and predictions(folder) == predictions(two_epochs.folder)
    copied = tmp_path / "copy" / "checkpoints" / "last.ckpt"
    [record] = start(tmp_path / "elsewhere", *TYPED, f"ckpt={copied}")
    assert record["metrics"] == two_epochs.record["metrics"]
    assert same_weights(tmp_path / "elsewhere" / "checkpoints" / "last.ckpt", copied)
    with pytest.raises(CheckpointError, match="already finished"):
        start(tmp_path / "third", *TYPED, f"ckpt={folder / 'checkpoints' / 'last.ckpt'}")


@pytest.mark.slow
def test_training_that_stopped_early_is_not_continued(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/accuracy, mode: max, patience: 0"
    typed = ("trainer.max_epochs=4", f"+callbacks.stop='{stop}, stopping_threshold: 0}}'".replace("'", ""))
    start(tmp_path, *typed)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert content(last)["finished"] and content(last)["global_step"] == STEPS
    (tmp_path / "record.json").unlink()
    monkeypatch.setattr(
        "retention.training.module.RetentionModule.training_step", lambda *_: pytest.fail("trained again")
    )
    [record] = start(tmp_path, *typed, "ckpt=last")
    assert record["training"]["steps"] == STEPS
    with pytest.raises(CheckpointError, match="has already finished 1 epochs; start a new training from its model"):
        start(tmp_path / "second", *typed, f"ckpt={last}")


@pytest.mark.parametrize("broken", ["replace", "save"])
def test_full_disk_leaves_the_earlier_checkpoint_and_no_temporary_file(
    broken: str, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, save, written = os.replace, torch.save, []

    def full(*arguments: Any) -> None:
        is_checkpoint = broken == "save" or str(arguments[1]).endswith("last.ckpt")
        written.append(arguments) if is_checkpoint else None
        if is_checkpoint and len(written) > 1:
            raise OSError(28, "No space left on device")
        (replace if broken == "replace" else save)(*arguments)

    monkeypatch.setattr("os.replace" if broken == "replace" else "torch.save", full)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .*No space left on device.*unchanged"):
        start(tmp_path, *TYPED)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert content(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == STEPS
    assert not list(tmp_path.rglob("*.tmp"))
