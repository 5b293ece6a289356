"""Test calls that reach the encoder by other ways than calling it: they drop tokens, or raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.policies import Truncate, retain


def test_forward_called_directly_drops_tokens(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    """Libraries such as sentence-transformers call ``model.forward``."""
    model = tiny()
    dense = states(model, input_ids=ids)
    with retain(model, Truncate(rho=0.3).eval()) as retainer, torch.no_grad():
        by_forward = model.forward(input_ids=ids).last_hidden_state
        assert sorted(retainer.report.kept) == [0, 1, 2]
        assert torch.equal(by_forward, states(model, input_ids=ids))
        assert torch.equal(model.forward(input_ids=ids).last_hidden_state, by_forward)
    assert not torch.allclose(by_forward, dense, atol=1e-3)


def test_forward_keeps_its_signature_inside_the_context(tiny: Callable[..., Any]) -> None:
    """Libraries select the arguments of a batch by the parameters of ``forward``."""
    import inspect

    model = tiny()
    before = inspect.signature(model.forward)
    with retain(model, Truncate(rho=0.3).eval()):
        assert inspect.signature(model.forward) == before


@pytest.mark.parametrize("by_name", [True, False])
def test_replaced_forward_drops_tokens(
    by_name: bool, tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    model, plain = tiny(), tiny()
    original = model.forward
    model.forward = lambda *a, **k: original(*a, **k)
    with retain(plain, Truncate(rho=0.3).eval()):
        expected = states(plain, input_ids=ids)
    with retain(model, Truncate(rho=0.3).eval()), torch.no_grad():
        output = model(input_ids=ids) if by_name else model(ids)
    assert torch.equal(output.last_hidden_state, expected)


def test_replaced_forward_with_other_arguments_is_an_error(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    original = model.forward
    model.forward = lambda batch: original(**batch)
    with retain(model, Truncate(rho=0.3).eval()), pytest.raises(ValueError, match="input_ids"):
        model(batch={"input_ids": ids})


def test_replaced_forward_without_layers_is_an_error(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    model.forward = lambda **inputs: model.embeddings(**inputs)
    with (
        retain(model, Truncate(rho=0.3).eval()),
        pytest.raises(RuntimeError, match=r"gates after layers \[0, 1, 2\] did not run"),
    ):
        model(input_ids=ids)


def test_layers_called_without_the_encoder_are_an_error(tiny: Callable[..., Any], ids: Tensor) -> None:
    model = tiny()
    with retain(model, Truncate(rho=0.3).eval()), torch.no_grad():
        model(input_ids=ids)  # leaves no state behind that the next call could use
        with pytest.raises(RuntimeError, match="outside of a forward pass of the encoder"):
            model.encoder(model.embeddings(input_ids=ids))


def test_report_without_a_call_names_the_possible_cause(tiny: Callable[..., Any]) -> None:
    with (
        retain(tiny(), Truncate(rho=0.3).eval()) as retainer,
        pytest.raises(RuntimeError, match="did not reach the encoder"),
    ):
        _ = retainer.report


def test_wrapper_that_stays_after_the_context_keeps_every_token(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    """Somebody replaces ``forward`` inside the context and does not restore it."""
    model = tiny()
    dense = states(model, input_ids=ids)
    with retain(model, Truncate(rho=0.3).eval()):
        inside = model.forward
        model.forward = lambda *a, **k: inside(*a, **k)
        assert not torch.equal(states(model, input_ids=ids), dense)
    assert torch.equal(states(model, input_ids=ids), dense)
