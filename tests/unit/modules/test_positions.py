"""Tables of learned positions, extended: what was learned stays, longer texts run, and saving keeps it."""

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
from retention.models.backbone import Pretrained
from retention.models.saved import Saved, save_backbone

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DISTILBERT = {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
TABLES = [name for name, adapter in adapters().items() if adapter.position_table(AutoConfig.for_model(name))]


def small_config(family: str, places: int = 24) -> Any:
    config = AutoConfig.for_model(family, **(DISTILBERT if family == "distilbert" else SMALL))
    table = adapters()[family].position_table(config)
    if hasattr(config, "attention_window"):
        config.attention_window = 4  # or the library pads 24 tokens to 512 places
    if table is not None:
        setattr(config, table.field, places + table.offset)
    return config


def checkpoint(folder: Path, family: str) -> str:
    """A random encoder with room for 24 tokens, and a tokenizer, as a folder."""
    torch.manual_seed(0)
    AutoModel.from_config(small_config(family)).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=24
    ).save_pretrained(folder)
    return str(folder)


def states(encoder: Any, length: int) -> torch.Tensor:
    ids = torch.arange(length).remainder(30).add(5).unsqueeze(0)
    with torch.no_grad():
        output: torch.Tensor = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return output


@pytest.mark.parametrize("family", TABLES)
def test_short_texts_give_the_same_and_long_ones_run(family: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, family)
    own = Pretrained(name="own", path=path).encoder(40)
    longer = Pretrained(name="longer", path=path, max_positions=100).encoder(40)
    assert not longer.training
    assert torch.equal(states(longer, 24), states(own, 24))
    assert states(longer, 100).shape[1] == 100
    with pytest.raises((IndexError, RuntimeError)):
        states(own, 100)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_learned_rows_are_repeated_in_order(family: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, family)
    table = adapters()[family].position_table(small_config(family))
    assert table is not None and table.offset == (2 if family == "roberta" else 0)
    learned = Pretrained(name="own", path=path).encoder(40).state_dict()[table.parameter]
    rows = Pretrained(name="longer", path=path, max_positions=70).encoder(40).state_dict()[table.parameter]
    assert torch.equal(rows[: table.offset + 24], learned)
    for place in range(70):
        assert torch.equal(rows[table.offset + place], learned[table.offset + place % 24])


def test_a_run_s_folder_remembers_the_longer_table(tmp_path: Path) -> None:
    backbone = Pretrained(name="longer", path=checkpoint(tmp_path / "hub", "bert"), max_positions=100)
    encoder, tokenizer = backbone.encoder(40), backbone.tokenizer()
    encoder.load_state_dict({name: value + 0.5 for name, value in encoder.state_dict().items()})  # trained on
    assert tokenizer.model_max_length == 100
    save_backbone(tmp_path / "run", encoder, tokenizer)
    saved = Saved(name="longer", path=str(tmp_path / "run"))
    again = saved.encoder(40).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(states(again, 100), states(encoder, 100))
    assert saved.tokenizer().model_max_length == 100


def test_the_option_changes_nothing_where_the_table_is_long_already(tmp_path: Path) -> None:
    first = Pretrained(name="longer", path=checkpoint(tmp_path / "hub", "bert"), max_positions=100)
    encoder: Any = first.encoder(40)
    encoder.load_state_dict({name: torch.randn_like(value) for name, value in encoder.state_dict().items()})
    encoder.save_pretrained(tmp_path / "own")
    again = Pretrained(name="longer", path=str(tmp_path / "own"), max_positions=100).encoder(40)
    assert torch.equal(states(again, 100), states(encoder, 100))


@pytest.mark.parametrize(
    ("family", "asked", "message"),
    [
        ("modernbert", 100, "modernbert learns no table of positions"),
        ("bert", 23, "must be at least the 24 positions of the checkpoint, got 23"),
    ],
)
def test_what_cannot_be_extended(family: str, asked: int, message: str, tmp_path: Path) -> None:
    small_config(family).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        Pretrained(name="longer", path=str(tmp_path), max_positions=asked).shape()
    [problem] = caught.value.problems
    assert problem.key == "backbone.max_positions" and message in problem.message


def test_configuration_fields_can_be_replaced(tmp_path: Path) -> None:
    small_config("bert").save_pretrained(tmp_path)
    backbone = Pretrained(name="own", path=str(tmp_path), fields={"num_hidden_layers": 3})
    assert backbone.shape().num_layers == 3
    with pytest.raises(ConfigError) as caught:
        Pretrained(name="own", path=str(tmp_path), fields={"layerz": 3}).shape()
    assert [problem.key for problem in caught.value.problems] == ["backbone.fields.layerz"]


def test_no_positions_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_positions: must be at least 1"):
        Pretrained(name="own", path="nowhere", max_positions=0)
