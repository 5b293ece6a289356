"""Check the achieved keep ratios and the profile file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from retention.callbacks import RetentionProfile
from retention.engine.report import ForwardReport
from retention.errors import ConfigError


class Words:
    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"w{number}" for number in ids]


class Rows(pl.LightningDataModule):
    def __init__(self, loader: Any, label_names: list[str] | None) -> None:
        super().__init__()
        self.loader = loader
        self.tokenizer = Words()
        if label_names is not None:
            self.label_names = label_names

    def test_dataloader(self) -> Any:
        return self.loader


def hard(lengths: list[int], **keep_indices: list[list[int]]) -> ForwardReport:
    indices = {int(name.removeprefix("layer")): torch.tensor(rows) for name, rows in keep_indices.items()}
    kept = {layer: (rows >= 0).sum(1) for layer, rows in indices.items()}
    return ForwardReport(lengths=torch.tensor(lengths), kept=kept, keep_indices=indices)


@pytest.fixture
def batches(batch_of: Any) -> list[dict[str, Any]]:
    first = hard([4, 2], layer0=[[0, 1], [0, -1]], layer2=[[0], [0]])
    second = hard([5], layer0=[[0, 1, 3, 4]], layer2=[[3]])
    return [
        batch_of([4, 2], first_index=1, report=first, predictions=torch.tensor([0, 1])),
        batch_of([5], first_index=0, report=second, predictions=torch.tensor([1])),
    ]


def test_keep_ratios_are_means_over_samples(
    trainer_with: Callable[..., Any], replay_module: Any, loader_of: Any, batches: Any, tmp_path: Path
) -> None:
    profile, module = RetentionProfile(dirpath=str(tmp_path)), replay_module((0, 2))
    trainer = trainer_with(profile)
    trainer.validate(module, loader_of(batches), verbose=False)
    # layer 0: 2/4, 1/2, 4/5    layer 2: 1/4, 1/2, 1/5
    by_layer = {0: (0.5 + 0.5 + 0.8) / 3, 2: (0.25 + 0.5 + 0.2) / 3}
    assert profile.summary()["by_layer"] == pytest.approx(by_layer)
    assert profile.summary()["mean"] == pytest.approx(sum(by_layer.values()) / 2)
    logged = trainer.callback_metrics
    assert logged["retention/keep_ratio"] == pytest.approx(sum(by_layer.values()) / 2)
    assert logged["retention/keep_ratio/layer_2"] == pytest.approx(by_layer[2])
    assert not (tmp_path / "retention_profile.json").exists()


def test_file_has_the_depth_of_tokens(
    trainer_with: Callable[..., Any], replay_module: Any, loader_of: Any, batches: Any, tmp_path: Path
) -> None:
    profile, module = RetentionProfile(dirpath=str(tmp_path / "run"), examples=3), replay_module((0, 2), rho=0.4)
    trainer = trainer_with(profile)
    trainer.test(module, datamodule=Rows(loader_of(batches), ["cold", "warm"]), verbose=False)
    written = json.loads((tmp_path / "run" / "retention_profile.json").read_text(encoding="utf-8"))
    assert written["mean"] == pytest.approx(profile.summary()["mean"])
    assert written["by_layer"] == {str(k): pytest.approx(v) for k, v in profile.summary()["by_layer"].items()}
    assert (written["rho"], written["gated_layers"], written["label_names"]) == (0.4, [0, 2], ["cold", "warm"])
    assert written["examples"] == [
        {"index": 0, "tokens": ["w0", "w1", "w2", "w3", "w4"], "label": 0, "prediction": 1, "depth": [1, 1, 0, 2, 1]},
        {"index": 1, "tokens": ["w0", "w1", "w2", "w3"], "label": 0, "prediction": 0, "depth": [2, 1, 0, 0]},
        {"index": 2, "tokens": ["w10", "w11"], "label": 0, "prediction": 1, "depth": [2, 0]},
    ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["retention_profile.json"]


def test_dense_keeps_everything(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    profile, module = RetentionProfile(dirpath=str(tmp_path)), replay_module((), rho=1.0)
    trainer = trainer_with(profile)
    batches = [batch_of([3, 2], report=ForwardReport(lengths=torch.tensor([3, 2])))]
    trainer.test(module, datamodule=Rows(loader_of(batches), None), verbose=False)
    assert profile.summary() == {"mean": 1.0, "by_layer": {}}
    assert trainer.callback_metrics["retention/keep_ratio"] == 1.0
    written = json.loads((tmp_path / "retention_profile.json").read_text(encoding="utf-8"))
    assert [example["depth"] for example in written["examples"]] == [[0, 0, 0], [0, 0]]
    assert written["label_names"] is None
    assert written["examples"][0]["prediction"] is None


def test_layer_missing_from_the_report_removes_nothing(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    profile, module = RetentionProfile(dirpath=str(tmp_path)), replay_module((0, 1, 2))
    batches = [batch_of([4], report=hard([4], layer1=[[0, 1, 2]]))]
    trainer_with(profile).validate(module, loader_of(batches), verbose=False)
    assert profile.summary()["by_layer"] == {0: 1.0, 1: 0.75, 2: 0.75}


def test_soft_gates_are_not_counted(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    soft = ForwardReport(lengths=torch.tensor([4]), keep_mass={0: torch.tensor([2.0])})
    profile, module = RetentionProfile(dirpath=str(tmp_path)), replay_module((0,))
    trainer = trainer_with(profile)
    trainer.validate(module, loader_of([batch_of([4], report=soft)]), verbose=False)
    assert profile.summary() == {"mean": None, "by_layer": {}}
    assert "retention/keep_ratio" not in trainer.callback_metrics


def test_examples_need_a_tokenizer(
    trainer_with: Callable[..., Any], replay_module: Any, loader_of: Any, batches: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="examples: the trainer has no data module"):
        trainer_with(RetentionProfile(dirpath=str(tmp_path))).test(replay_module(), loader_of(batches), verbose=False)
    trainer_with(RetentionProfile(dirpath=str(tmp_path), examples=0)).test(
        replay_module(), loader_of(batches), verbose=False
    )
    assert json.loads((tmp_path / "retention_profile.json").read_text())["examples"] == []


def test_tasks_without_classes_have_neither_label_nor_prediction(
    trainer_with: Callable[..., Any], replay_module: Any, batch_of: Any, loader_of: Any, tmp_path: Path
) -> None:
    batch = batch_of([4], report=hard([4], layer0=[[0]]), predictions=torch.zeros(1, 3))
    batch["labels"] = torch.zeros(1, 2)
    profile, module = RetentionProfile(dirpath=str(tmp_path)), replay_module((0,))
    trainer_with(profile).test(module, datamodule=Rows(loader_of([batch]), None), verbose=False)
    example = json.loads((tmp_path / "retention_profile.json").read_text())["examples"][0]
    assert (example["label"], example["prediction"]) == (None, None)


def test_wrong_settings_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"dirpath: "):
        RetentionProfile(dirpath="")
    with pytest.raises(ConfigError, match=r"examples: must be >= 0, got -1"):
        RetentionProfile(dirpath="runs", examples=-1)
