"""Test ``output_hidden_states``: full length, one meaning, whatever the model was used for before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.equivalence.conftest import TINY
from torch import Tensor

from retention.engine import adapters, encoder_of
from retention.policies import Truncate, retain


def hidden_states(model: Any, ids: Tensor, **options: Any) -> tuple[Tensor, ...]:
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True, **options)
    recorded = output.hidden_states if hasattr(output, "hidden_states") else output[-1]
    return tuple(recorded)


@pytest.fixture
def family_encoder() -> Callable[[str], Any]:
    from transformers import AutoConfig, AutoModel

    def build(family: str) -> Any:
        torch.manual_seed(0)
        return encoder_of(AutoModel.from_config(AutoConfig.for_model(family, **TINY[family]))).eval()

    return build


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("family", sorted(adapters()))
def test_entries_are_the_inputs_of_the_layers_at_full_length(
    family: str, used_before: bool, family_encoder: Callable[[str], Any], ids: Tensor
) -> None:
    model = family_encoder(family)
    if used_before:
        hidden_states(model, ids)
    with retain(model, Truncate(rho=0.4).eval()) as retainer:
        recorded = hidden_states(model, ids)
        report = retainer.report
        last = model(input_ids=ids).last_hidden_state
    assert [each.shape for each in recorded] == [(2, 20, 32)] * 5
    torch.testing.assert_close(recorded[-1], last)
    gone = {layer: sorted(set(range(20)) - set(kept[0].tolist())) for layer, kept in report.keep_indices.items()}
    assert gone[0] and len(gone[0]) < len(gone[2])
    for layer in range(1, 4):  # a dropped token keeps the state that it left with
        before, after = recorded[layer][0], recorded[layer + 1][0] if layer < 3 else recorded[3][0]
        assert torch.equal(before[gone[layer - 1]], after[gone[layer - 1]])
        kept = [token for token in range(20) if token not in gone[layer - 1]]
        assert layer == 3 or not torch.allclose(before[kept], after[kept])


@pytest.mark.parametrize("family", sorted(adapters()))
def test_without_removal_they_equal_the_models_own(
    family: str, family_encoder: Callable[[str], Any], ids: Tensor
) -> None:
    model = family_encoder(family)
    dense = hidden_states(model, ids)
    with retain(model, Truncate(rho=1.0).eval()):
        for own, ours in zip(dense, hidden_states(model, ids), strict=True):
            torch.testing.assert_close(ours, own, atol=5e-6, rtol=0)


def test_history_of_the_model_makes_no_difference(tiny: Callable[..., Any], ids: Tensor) -> None:
    recorded = []
    for used in (False, True):
        model = tiny()
        if used:
            hidden_states(model, ids)
        with retain(model, Truncate(rho=0.3).eval()):
            recorded.append(hidden_states(model, ids))
    assert all(torch.equal(one, other) for one, other in zip(*recorded, strict=True))


def test_cut_gives_the_tokens_that_each_layer_saw(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.3).eval(), dropped="cut") as retainer:
        recorded = hidden_states(model, ids)
    kept = [int(retainer.report.kept[layer][0]) for layer in range(3)]
    assert [each.shape[1] for each in recorded] == [20, *kept, kept[-1]]


def test_heads_tuples_and_selected_layers_get_them_too(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny("BertForTokenClassification")
    with retain(model, Truncate(rho=0.3).eval()), torch.no_grad():
        expected = hidden_states(model.bert, ids)
        through_head = hidden_states(model, ids)
        as_tuple = model.bert(input_ids=ids, output_hidden_states=True, return_dict=False)
        selected = model.bert(input_ids=ids, output_hidden_states=[2, -1]).hidden_states
        model.config.return_dict = False
        by_default_tuple = model.bert(input_ids=ids, output_hidden_states=True)
        model.config.return_dict, model.config.output_hidden_states = True, True
        by_configuration = model.bert(input_ids=ids).hidden_states
    for recorded in (through_head, as_tuple[-1], by_default_tuple[-1], by_configuration):
        assert all(torch.equal(one, other) for one, other in zip(recorded, expected, strict=True))
    assert isinstance(as_tuple, tuple)
    assert [each is None for each in selected] == [True, True, False, True, False]
    assert torch.equal(selected[2], expected[2])
