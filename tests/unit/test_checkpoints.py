"""Test reading checkpoint files and loading their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retention.errors import CheckpointError
from retention.experiment.checkpoints import encoder_folder, load_weights, read_checkpoint


class Model(nn.Module):
    """The parts of a module that checkpoints know."""

    def __init__(self, width: int = 3, scorers: tuple[str, ...] = ("0",)) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, 2, bias=False)
        self.policy = nn.ModuleDict({name: nn.Linear(width, 1, bias=False) for name in scorers})


def content_of(model: nn.Module) -> dict[str, Any]:
    config = {"seed": 3, "data": {"seed": "${seed}"}}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    return {"state_dict": state, "hyper_parameters": {"config": config}, "epoch": 0}


def test_read_checkpoint_returns_the_saved_content(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    model = Model()
    torch.save(content_of(model), path)
    content = read_checkpoint(path)
    assert torch.equal(content["state_dict"]["model.encoder.weight"], model.encoder.weight)
    assert content["hyper_parameters"]["config"] == {"seed": 3, "data": {"seed": "${seed}"}}


def _no_file(path: Path) -> None:
    del path


def _run_folder(path: Path) -> None:
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "last.ckpt").touch()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_no_file, r"no such checkpoint; pass a file such as"),
        (Path.mkdir, r"no such checkpoint"),
        (_run_folder, r"some\.ckpt: is a run folder; pass its checkpoint, .*some\.ckpt/checkpoints/last\.ckpt"),
        (Path.touch, r"cannot be read as a checkpoint"),
        (lambda path: path.write_text("this is text\n" * 20), r"cannot be read as a checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), r"cannot be read as a checkpoint"),
        (lambda path: torch.save({"weights": torch.ones(2)}, path), r"is not a checkpoint of this project"),
        (lambda path: torch.save(torch.ones(2), path), r"is not a checkpoint of this project"),
        (lambda path: torch.save({"x": Path("/")}, path), r"cannot be read as a checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content_of(Model(width=30)), path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


def test_encoder_folder_is_beside_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder_folder(tmp_path / "run" / "checkpoints" / "last.ckpt") == str(tmp_path / "run" / "encoder")
    monkeypatch.chdir(tmp_path)
    assert encoder_folder("checkpoints/last.ckpt") == str(tmp_path / "encoder")


def test_weights_of_the_same_model_are_loaded() -> None:
    source, target = Model(), Model()
    load_weights(target, content_of(source), "x.ckpt", policy=True)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_policy_weights_are_kept_without_policy() -> None:
    source, target = Model(scorers=("0", "1")), Model(scorers=("0", "2"))
    before = {name: value.clone() for name, value in target.policy.state_dict().items()}
    load_weights(target, content_of(source), "x.ckpt", policy=False)
    assert torch.equal(target.encoder.weight, source.encoder.weight)
    assert torch.equal(target.head.weight, source.head.weight)
    assert all(torch.equal(value, before[name]) for name, value in target.policy.state_dict().items())


@pytest.mark.parametrize(
    ("source", "policy", "message"),
    [
        (Model(width=4), False, r"encoder\.weight is \(4, 4\) there and \(3, 3\) here; head\.weight is"),
        (Model(scorers=()), True, r"missing policy\.0\.weight"),
        (Model(scorers=("0", "5")), True, r"unexpected policy\.5\.weight"),
        (Model(scorers=("0", *"123456")), True, r"policy\.3\.weight; and 3 more"),
    ],
)
def test_weights_of_another_model_are_refused(source: Model, policy: bool, message: str) -> None:
    target = Model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"x\.ckpt: is a checkpoint of another model \(.*{message}"):
        load_weights(target, content_of(source), "x.ckpt", policy=policy)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items()), "nothing half-loaded"


def test_changed_byte_of_a_weight_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    model = Model(width=30)
    torch.save(content_of(model), path)
    raw = bytearray(path.read_bytes())
    start = raw.find(model.encoder.weight.detach().numpy().tobytes())
    assert start > 0
    raw[start + 40] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match=r"is damaged .*differs from its checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: torch.full_like(weight, float("nan")), "values that are not finite"),
        (lambda weight: weight / 0.0, "values that are not finite"),
        (lambda weight: weight.to(torch.complex64), "dense tensor of real numbers"),
        (lambda weight: weight.to_sparse(), "dense tensor of real numbers"),
        (lambda weight: weight.tolist(), "is not a weight, got a list"),
        (lambda weight: None, "is not a weight, got a NoneType"),
    ],
)
def test_unusable_weights_are_refused(change: Callable[[torch.Tensor], Any], message: str, tmp_path: Path) -> None:
    content = content_of(Model())
    content["state_dict"]["model.head.weight"] = change(content["state_dict"]["model.head.weight"])
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=rf"model\.head\.weight.*{message}"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_weights_of_another_kind_of_number_are_refused(dtype: torch.dtype) -> None:
    content = content_of(Model())
    content["state_dict"]["model.head.weight"] = content["state_dict"]["model.head.weight"].to(dtype)
    with pytest.raises(CheckpointError, match=r"head\.weight is torch\.\w+ there and torch\.float32 here"):
        load_weights(Model(), content, "x.ckpt", policy=True)
    content["state_dict"]["model.head.weight"] = content["state_dict"]["model.head.weight"].half()
    load_weights(Model(), content, "x.ckpt", policy=True)
