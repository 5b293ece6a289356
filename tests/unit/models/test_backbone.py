"""Tests of backbones: gradient checkpointing, dropout, configuration fields, code of model repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from retention.engine import encoder_of
from retention.errors import CheckpointError, ConfigError
from retention.models.backbone import PretrainedBackbone, ScratchBackbone
from retention.models.saved import SavedBackbone
from retention.policies import Adaptive, retain

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def saved_bytes(encoder: nn.Module) -> int:
    """Return the bytes that a forward pass in training keeps for the backward pass."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    encoder.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        encoder(input_ids=torch.ones(2, 20, dtype=torch.long))
    return total


def scratch_encoder(family: str, **settings: Any) -> nn.Module:
    return ScratchBackbone(name="small", model_type=family, fields=SMALL, **settings).encoder(40)


def test_gradient_checkpointing_keeps_less() -> None:
    kept = {enabled: saved_bytes(scratch_encoder("bert", gradient_checkpointing=enabled)) for enabled in (False, True)}
    assert kept[True] < kept[False] / 3


def test_gradient_checkpointing_without_support_raises() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.gradient_checkpointing: mpnet"):
        scratch_encoder("mpnet", gradient_checkpointing=True)


def gradients(*, gradient_checkpointing: bool, rho: float = 0.5) -> torch.Tensor:
    """Return all gradients of one pass with learned gates between attention and feed-forward."""
    torch.manual_seed(0)
    backbone = ScratchBackbone(
        name="small", model_type="bert", fields=SMALL, gradient_checkpointing=gradient_checkpointing
    )
    backbone.check_prune_at("after_attention")
    encoder: Any = backbone.encoder(40).train()
    for dropout in (each for each in encoder.modules() if isinstance(each, nn.Dropout)):
        dropout.p = 0.0
    policy = Adaptive(rho=rho).train()
    policy.phase = "soft"
    torch.manual_seed(1)
    ids = torch.arange(40).reshape(2, 20)
    with retain(encoder, policy, prune_at="after_attention"):
        torch.manual_seed(2)
        loss = (encoder(input_ids=ids).last_hidden_state * torch.randn(16)).sum()
    loss.backward()
    parameters = [*encoder.parameters(), *policy.parameters()]
    return torch.cat([each.grad.flatten() for each in parameters if each.grad is not None])


def test_recomputed_layers_with_gates_inside_give_the_same_gradients() -> None:
    plain = gradients(gradient_checkpointing=False)
    torch.testing.assert_close(gradients(gradient_checkpointing=True), plain, atol=1e-5, rtol=1e-4)
    other = gradients(gradient_checkpointing=True, rho=0.9)
    assert (other - plain).norm() / plain.norm() > 1e-3


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "mpnet", "modernbert", "deberta-v2", "big_bird", "t5", "longformer", "led"]
)
def test_dropout_of_checkpoint_is_replaced(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    backbone = PretrainedBackbone(name="x", path=str(tmp_path), hidden_dropout=0.25, attention_dropout=0.0)
    config = backbone.config().to_dict()
    of_heads = ("classif", "qa_", "pooler_", "summary_")
    dropout = {k: v for k, v in config.items() if "dropout" in k and not any(word in k for word in of_heads)}
    attention = {key: value for key, value in dropout.items() if "attention" in key}
    assert set(attention.values()) <= {0.0}
    assert {value for key, value in dropout.items() if key not in attention} == {0.25}


@pytest.mark.parametrize("key", ["hidden_dropout", "attention_dropout"])
def test_dropout_out_of_range_raises(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: must be in \[0, 1\) or null, got 1.0"):
        PretrainedBackbone(name="x", path="x", **{key: 1.0})


def test_configuration_fields_are_replaced(tmp_path: Path) -> None:
    AutoConfig.for_model("bert", **SMALL).save_pretrained(tmp_path)
    backbone = PretrainedBackbone(name="x", path=str(tmp_path), fields={"num_hidden_layers": 5})
    assert backbone.shape().num_layers == 5
    with pytest.raises(ConfigError) as caught:
        PretrainedBackbone(name="x", path=str(tmp_path), fields={"layerz": 3}).shape()
    assert [problem.key for problem in caught.value.problems] == ["backbone.fields.layerz"]


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model("bert", **SMALL)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"backbone\.path: .*the folder holds no usable model"):
        PretrainedBackbone(name="x", path=str(tmp_path)).encoder(10)


def test_unknown_family_or_field_raises() -> None:
    with pytest.raises(ConfigError, match="model_type: "):
        ScratchBackbone(name="x", model_type="birt", fields={})
    with pytest.raises(ConfigError, match=r"fields\.layerz: "):
        ScratchBackbone(name="x", model_type="bert", fields={"layerz": 3})


@pytest.fixture
def folder_with_code(tmp_path: Path) -> Path:
    """A model folder of an unknown family whose Python code writes a file when it is imported."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    auto_map = {"AutoConfig": "code.OwnConfig", "AutoModel": "code.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own_family", "auto_map": auto_map}))
    (folder / "code.py").write_text(
        f"open({str(tmp_path / 'marker')!r}, 'w').close()\n"
        "from transformers import BertConfig\n\n\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own_family'\n"
    )
    return folder


def test_code_of_repository_runs_only_if_trusted(
    folder_with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "marker"
    with pytest.raises(ConfigError, match=r"backbone\.trust_remote_code: "):
        PretrainedBackbone(name="x", path=str(folder_with_code)).config()
    with pytest.raises(CheckpointError, match="hostile"):
        SavedBackbone(name="x", path=str(folder_with_code)).config()
    assert not marker.exists()
    config = PretrainedBackbone(name="x", path=str(folder_with_code), trust_remote_code=True).config()
    assert marker.exists() and type(config).__name__ == "OwnConfig"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": 7}'])
def test_unreadable_saved_configuration_raises(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        SavedBackbone(name="x", path=str(tmp_path)).config()


@pytest.mark.parametrize(
    ("family", "fields", "key"),
    [
        ("gpt2", {"n_embd": 8, "n_layer": 1, "n_head": 2}, "backbone.path"),
        ("bert", {**SMALL, "chunk_size_feed_forward": 4}, "backbone.fields.chunk_size_feed_forward"),
    ],
)
def test_unsupported_models_name_the_setting(family: str, fields: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ScratchBackbone(name="small", model_type=family, fields=fields).shape()
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(("family", "part"), [("t5", "encoder_decoder"), ("bert", "classifier"), ("bert", "encoder")])
def test_every_part_of_a_model_is_checkpointed(family: str, part: str) -> None:
    fields = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 3, "num_heads": 2} if family == "t5" else SMALL
    for enabled in (True, False):
        backbone = ScratchBackbone(name="small", model_type=family, fields=fields, gradient_checkpointing=enabled)
        loaded: Any = encoder_of(backbone.load(part, 40))
        assert loaded.is_gradient_checkpointing == enabled
