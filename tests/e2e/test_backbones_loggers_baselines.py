"""Test pretrained backbones, baselines of ``compare``, callbacks and loggers."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from retention.tasks.classification.keywords import KeywordData


@pytest.fixture
def pretrained_folder(tmp_path: Path) -> Path:
    """Save a random BERT with a word tokenizer and return its folder."""
    folder = tmp_path / "encoder"
    tokenizer = KeywordData.build_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Write train.csv and validation.csv with the columns sentence and label, and return their folder."""
    folder = tmp_path / "sst2"
    folder.mkdir()
    for name, count in (("train", 40), ("validation", 12)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence", "label"])
            for row in range(count):
                writer.writerow([" ".join(["the film, it", "was"] * (2 + row % 7)), row % 2])
    return folder


def test_local_texts_with_a_local_backbone(
    pretrained_folder: Path, sentences: Path, start_bare: Any, tmp_path: Path
) -> None:
    typed = ["task=sst2", f"data.dir={sentences}", "task.data.val_size=8", "task.data.batch_size=8"]
    typed += ["backbone=minilm", f"backbone.path={pretrained_folder}", "backbone.freeze_embeddings=true"]
    typed += ["backbone.attention_dropout=0.0", "+task.head.pooling=mean", "trainer.max_epochs=1"]
    typed += ["trainer.accelerator=cpu", "++callbacks.progress.log_refresh_rate=0", "retention.rho=0.5"]
    [record] = start_bare(tmp_path / "run", *typed)
    assert record["task"] == "sst2" and record["backbone"] == "minilm"
    assert (record["data"]["train"], record["data"]["val"], record["data"]["test"]) == (32, 8, 12)
    again = ["mode=test", f"ckpt={tmp_path}/run/checkpoints/last.ckpt", "trainer.accelerator=cpu"]
    pretrained_folder.rename(tmp_path / "gone")  # the run folder is enough
    [tested] = start_bare(tmp_path / "test", *again)
    assert (tested["metrics"], tested["keep_ratio"]) == (record["metrics"], record["keep_ratio"])


def test_baselines_are_trained_alike_and_tabulated(finished: Any, start: Any, tmp_path: Path) -> None:
    records = start(tmp_path, "compare=[dense,random]")
    assert [record["policy"] for record in records] == ["dense", "random", "adaptive"]
    assert [record["rho"] for record in records] == [1.0, 0.25, 0.25]
    assert records[1]["keep_ratio"] == records[2]["keep_ratio"], "the same budget for both"
    table = (tmp_path / "table.md").read_text()
    assert all(policy in table for policy in ("dense", "random", "adaptive"))
    for name in ("dense", "random"):
        kept = json.loads((tmp_path / name / "record.json").read_text())
        assert kept["policy"] == name and kept["config"]["task"] == records[2]["config"]["task"]
    assert records[2]["metrics"] == finished.record["metrics"], "baselines do not affect the run itself"
    profiles = [(path / "retention_profile.json").read_text() for path in (tmp_path, finished.folder)]
    assert profiles[0] == profiles[1]


def test_callback_can_be_removed(start: Any, tmp_path: Path) -> None:
    [record] = start(tmp_path, "~callbacks.profile", "data.train_size=16", "data.test_size=8")
    assert record["keep_ratio"] == {"mean": None, "by_layer": {}}, "not measured"
    assert not (tmp_path / "retention_profile.json").exists() and not (tmp_path / "kept_tokens.html").exists()


def test_tensorboard_logger_writes_events(start: Any, tmp_path: Path) -> None:
    start(tmp_path, "logger=tensorboard", "data.train_size=16", "data.test_size=8")
    events = [path.read_bytes() for path in (tmp_path / "tensorboard").glob("events.out.tfevents.*")]
    assert any(b"test/accuracy" in each for each in events)


@pytest.mark.slow
def test_wandb_offline_writes_one_folder_per_run(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    start(tmp_path, "logger=wandb", "compare=[dense]", "data.train_size=16", "data.test_size=8")
    folders = [path for path in tmp_path.rglob("offline-run-*") if path.is_dir()]
    assert len(folders) == 2 and len({path.name for path in folders}) == 2
    assert {path.relative_to(tmp_path).parts[0] for path in folders} == {"wandb", "dense"}
    assert "WANDB_API_KEY" not in os.environ
