"""Tests of encoders that consist of some layers of a deeper one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel, ModernBertConfig, T5Config

from retention.core.flops import EncoderShape
from retention.errors import ConfigError
from retention.models.backbone import PretrainedBackbone
from retention.models.layer_selection import config_of_layers, full_config, select_layers, state_of_layers
from retention.models.saved import SavedBackbone
from retention.policies import Random


@pytest.fixture
def folder(tiny_bert: Callable[..., Any], tmp_path: Path) -> Path:
    tiny_bert().save_pretrained(tmp_path)
    return tmp_path


def backbone(folder: Path, layers: Any) -> PretrainedBackbone:
    return PretrainedBackbone(name="small", path=str(folder), layers=layers)


def test_selected_layers_keep_their_weights_and_compute_the_same(folder: Path) -> None:
    full: Any = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    shallow: Any = backbone(folder, [0, 2]).encoder(50).eval()
    assert len(shallow.encoder.layer) == 2 and shallow.config.num_hidden_layers == 2
    full.encoder.layer[1] = torch.nn.Identity()
    full.encoder.layer[1].forward = lambda hidden_states, *args, **kwargs: hidden_states
    ids = torch.arange(2, 12)[None]
    assert torch.equal(shallow(ids).last_hidden_state, full(ids).last_hidden_state)


def test_a_number_of_layers_means_the_first_ones(folder: Path) -> None:
    assert backbone(folder, 2).layer_indices == (0, 1)
    assert backbone(folder, None).layer_indices is None


@pytest.mark.parametrize("layers", [0, [], [2, 1], [1, 1], [-1, 0]])
def test_layers_out_of_range_are_refused(layers: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match="layers: must be"):
        backbone(folder, layers)


def test_layers_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.layers: layers \[3\] do not exist"):
        backbone(folder, [0, 3]).shape()


def test_families_with_shared_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.layers: t5"):
        config_of_layers(T5Config(), [0])


def test_layer_types_follow_their_layers() -> None:
    types = ["full_attention", "sliding_attention", "full_attention"]
    config = ModernBertConfig(num_hidden_layers=3, layer_types=types)
    shallow = config_of_layers(config, [1, 2])
    assert shallow.layer_types == types[1:]
    assert full_config(shallow).layer_types == types and full_config(shallow).num_hidden_layers == 3


def test_a_saved_student_remembers_the_depth_of_its_origin(folder: Path, tmp_path: Path) -> None:
    backbone(folder, 1).encoder(50).config.save_pretrained(tmp_path / "saved")  # type: ignore[operator, union-attr]
    saved = SavedBackbone(name="small", path=str(tmp_path / "saved"))
    assert (saved.shape().num_layers, saved.full_shape().num_layers) == (1, 3)


def test_flops_are_relative_to_all_layers(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], folder: Path
) -> None:
    model = make_model(Random(rho=1.0))
    shape: EncoderShape = backbone(folder, 1).full_shape()
    model.encoder.encoder.layer = model.encoder.encoder.layer[:1]
    model.retainer.shape, model.retainer.layers = backbone(folder, 1).shape(), (0,)
    model.reference_shape = shape
    model(make_batch(12, 9))
    dense, spent = model.flops()
    assert spent / dense == pytest.approx(1 / 3)


def test_weights_of_a_deeper_model_are_renumbered(tiny_bert: Callable[..., Any]) -> None:
    deep = tiny_bert()
    state = {f"encoder.{key}": value for key, value in deep.state_dict().items()} | {"head.weight": torch.ones(1)}
    shallow = select_layers(tiny_bert(), [0, 2])
    selected = state_of_layers(state, shallow, [0, 2])
    expected = {f"encoder.{key}" for key in shallow.state_dict()} | {"head.weight"}
    assert selected.keys() == expected
    name = "attention.output.dense.weight"
    assert torch.equal(selected[f"encoder.encoder.layer.1.{name}"], state[f"encoder.encoder.layer.2.{name}"])
    assert state_of_layers(selected, shallow, [0, 2]).keys() == expected, "weights of the student stay as they are"
