"""Tests of extended position tables: learned rows stay, longer sequences run, and saving keeps the extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from retention.engine import adapters
from retention.errors import ConfigError
from retention.models.backbone import PretrainedBackbone
from retention.models.saved import SavedBackbone, save_backbone

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DISTILBERT = {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
FAMILIES = [name for name, adapter in adapters().items() if adapter.position_table(AutoConfig.for_model(name))]


def small_config(family: str, positions: int = 24) -> Any:
    config = AutoConfig.for_model(family, **(DISTILBERT if family == "distilbert" else SMALL))
    table = adapters()[family].position_table(config)
    if hasattr(config, "attention_window"):
        config.attention_window = 4  # or the library pads 24 tokens to 512
    if table is not None:
        setattr(config, table.field, positions + table.offset)
    return config


def save_checkpoint(folder: Path, family: str) -> str:
    """Save a random encoder with 24 positions and a tokenizer; return the folder."""
    torch.manual_seed(0)
    AutoModel.from_config(small_config(family)).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=24
    ).save_pretrained(folder)
    return str(folder)


def hidden_states(encoder: Any, length: int) -> torch.Tensor:
    ids = torch.arange(length).remainder(30).add(5).unsqueeze(0)
    with torch.no_grad():
        output: torch.Tensor = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return output


@pytest.mark.parametrize("family", FAMILIES)
def test_short_sequences_give_same_states_and_long_ones_run(family: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, family)
    original = PretrainedBackbone(name="original", path=path).encoder(40)
    longer = PretrainedBackbone(name="longer", path=path, max_positions=100).encoder(40)
    assert not longer.training
    assert torch.equal(hidden_states(longer, 24), hidden_states(original, 24))
    assert hidden_states(longer, 100).shape[1] == 100
    with pytest.raises((IndexError, RuntimeError)):
        hidden_states(original, 100)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_learned_rows_are_repeated_in_order(family: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, family)
    table = adapters()[family].position_table(small_config(family))
    assert table is not None and table.offset == (2 if family == "roberta" else 0)
    learned = PretrainedBackbone(name="original", path=path).encoder(40).state_dict()[table.parameter]
    rows = PretrainedBackbone(name="longer", path=path, max_positions=70).encoder(40).state_dict()[table.parameter]
    assert torch.equal(rows[: table.offset + 24], learned)
    for position in range(70):
        assert torch.equal(rows[table.offset + position], learned[table.offset + position % 24])


def test_run_folder_keeps_longer_table(tmp_path: Path) -> None:
    backbone = PretrainedBackbone(name="longer", path=save_checkpoint(tmp_path / "hub", "bert"), max_positions=100)
    encoder, tokenizer = backbone.encoder(40), backbone.tokenizer()
    encoder.load_state_dict({name: value + 0.5 for name, value in encoder.state_dict().items()})  # trained further
    assert tokenizer.model_max_length == 100
    save_backbone(tmp_path / "run", encoder, tokenizer)
    saved = SavedBackbone(name="longer", path=str(tmp_path / "run"))
    loaded = saved.encoder(40).eval()
    loaded.load_state_dict(encoder.state_dict())
    assert torch.equal(hidden_states(loaded, 100), hidden_states(encoder, 100))
    assert saved.tokenizer().model_max_length == 100


def test_extension_changes_nothing_if_table_is_long_enough(tmp_path: Path) -> None:
    first = PretrainedBackbone(name="longer", path=save_checkpoint(tmp_path / "hub", "bert"), max_positions=100)
    encoder: Any = first.encoder(40)
    encoder.load_state_dict({name: torch.randn_like(value) for name, value in encoder.state_dict().items()})
    encoder.save_pretrained(tmp_path / "saved")
    loaded = PretrainedBackbone(name="longer", path=str(tmp_path / "saved"), max_positions=100).encoder(40)
    assert torch.equal(hidden_states(loaded, 100), hidden_states(encoder, 100))


@pytest.mark.parametrize(
    ("family", "requested", "message"),
    [
        ("modernbert", 100, "modernbert learns no table of positions"),
        ("bert", 23, "must be at least the 24 positions of the checkpoint, got 23"),
    ],
)
def test_impossible_extension_raises(family: str, requested: int, message: str, tmp_path: Path) -> None:
    small_config(family).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        PretrainedBackbone(name="longer", path=str(tmp_path), max_positions=requested).shape()
    [problem] = caught.value.problems
    assert problem.key == "backbone.max_positions" and message in problem.message


def test_max_positions_below_one_raises() -> None:
    with pytest.raises(ConfigError, match="max_positions: must be at least 1"):
        PretrainedBackbone(name="x", path="nowhere", max_positions=0)
