"""Test callbacks and tools that copy the whole module during and after training: averages of weights, snapshots."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from tests.e2e.conftest import ROOT, SMALL

from retention.callbacks.last_checkpoint import LastCheckpoint
from retention.errors import ConfigError
from retention.experiment import run as run_file
from retention.models.state_dict import model_state
from retention.tasks.classification.keywords import KeywordData
from retention.tasks.classification.metrics import Accuracy, LabelSetF1, MacroF1
from retention.tasks.question_answering.cuad_metrics import CuadScore
from retention.tasks.question_answering.qasper_metrics import QasperScore
from retention.tasks.question_answering.squad_metrics import SquadScore
from retention.tasks.summarization.metrics import Rouge

_LIGHTNING = "pytorch_lightning.callbacks"
_AVERAGES = {
    "swa": f"{{_target_: {_LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.1, swa_epoch_start: 1}}",
    "ema": f"{{_target_: {_LIGHTNING}.EMAWeightAveraging, decay: 0.9}}",
}


class CopyModule(pl.Callback):
    """Copies the module within a step, while the graph of the loss is alive, and after the test."""

    def __init__(self) -> None:
        self.copies: list[Any] = []
        self.module: Any = None

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.copies = [copy.deepcopy(pl_module)]

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.module = pl_module
        self.copies += [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module.model))]


@pytest.fixture
def copier(monkeypatch: pytest.MonkeyPatch) -> CopyModule:
    """Return a callback that is part of every run of the test."""
    callback, original = CopyModule(), run_file.build_trainer

    def build(config: Any, parts: Any, signals: Any = None) -> pl.Trainer:
        parts.callbacks.append(callback)
        return original(config, parts, signals)

    monkeypatch.setattr(run_file, "build_trainer", build)
    return callback


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that runs a small training and returns its run folder."""

    def call(*typed: str) -> Path:
        overrides = [f"paths.run_dir={tmp_path}/run", *SMALL, "logger=none", *typed]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", overrides=overrides)
            run_file.run(config, overrides, lambda extra: compose("config", overrides=extra))
        return tmp_path / "run"

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    yield call
    datasets.config.HF_DATASETS_CACHE = before


def stored_weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return model_state(content["state_dict"])


@pytest.mark.parametrize("name", sorted(_AVERAGES))
def test_stored_model_is_the_averaged_one_that_was_tested(
    name: str, train: Callable[..., Path], copier: CopyModule
) -> None:
    folder = train("trainer.max_epochs=3", f"+callbacks.average={_AVERAGES[name]}")
    tested, stored = copier.module.model.state_dict(), stored_weights(folder)
    assert all(torch.equal(stored[key], value) for key, value in tested.items() if key in stored)


def test_weights_of_the_last_epoch_would_be_others(
    train: Callable[..., Path], copier: CopyModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without the checkpoint at the end of training, the averaged weights are not stored."""
    monkeypatch.delattr(LastCheckpoint, "on_train_end")
    folder = train("trainer.max_epochs=3", f"+callbacks.average={_AVERAGES['swa']}")
    tested, stored = copier.module.model.state_dict(), stored_weights(folder)
    assert not torch.equal(stored["head.output.1.weight"], tested["head.output.1.weight"])


@pytest.mark.parametrize("policy", ["adaptive", "early_exit", "attention_topk", "transkimmer"])
def test_module_can_be_copied_at_any_time(policy: str, train: Callable[..., Path], copier: CopyModule) -> None:
    train(f"retention={policy}")
    during, after, pickled = copier.copies
    batch = next(iter(copier.module.trainer.datamodule.test_dataloader()))
    with torch.no_grad():
        expected = copier.module.model.eval()(batch)
        assert torch.equal(after.model.eval()(batch), expected)
        assert torch.equal(pickled.eval()(batch), expected)
        if policy == "early_exit":  # its threshold is set by the first validation, after this copy
            with pytest.raises(ConfigError, match="its threshold was not set"):
                during.model.eval()(batch)
        else:
            during.model.eval()(batch)
    own = {parameter.data_ptr() for parameter in copier.module.parameters()}
    assert all(parameter.data_ptr() not in own for each in (during, after) for parameter in each.parameters())


@pytest.mark.parametrize("metric_class", [Accuracy, MacroF1, LabelSetF1, CuadScore, QasperScore, SquadScore, Rouge])
def test_metrics_in_use_can_be_copied(metric_class: type[Any]) -> None:
    metric = metric_class()
    metric.in_use = threading.RLock()  # as the file lock of a metric that has been computed
    for duplicate in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert type(duplicate) is metric_class and duplicate is not metric and not hasattr(duplicate, "in_use")


def test_copies_of_a_model_share_the_data_and_pickles_leave_the_trainer_out() -> None:
    data = KeywordData(train_size=4, val_size=4, test_size=4, max_length=16, batch_size=2, eval_batch_size=2, seed=0)
    data.trainer = threading.RLock()  # type: ignore[assignment]
    assert copy.deepcopy({"data": data})["data"] is data
    stored = pickle.loads(pickle.dumps(data))
    assert stored.trainer is None and stored.settings == data.settings
