"""Test that an encoder has at most one open context, and that the refusal names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from retention.policies import Truncate, retain


def test_second_context_on_an_encoder_is_refused(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    model = tiny()
    dense = states(model, input_ids=ids)
    with retain(model, Truncate(rho=0.5).eval()) as retainer:
        inside = states(model, input_ids=ids)
        with pytest.raises(RuntimeError, match="another retention context is open"):
            retain(model, Truncate(rho=0.3).eval()).__enter__()
        assert torch_equal(states(model, input_ids=ids), inside)  # the refusal leaves the first one as it is
        assert retainer.report.kept
    assert torch_equal(states(model, input_ids=ids), dense)


def torch_equal(one: Tensor, other: Tensor) -> bool:
    return bool((one == other).all())


def test_named_remedy_closes_a_context_entered_by_hand(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    """A notebook cell that enters a context was run twice."""
    model = tiny("BertForSequenceClassification").bert
    retainer = retain(model, Truncate(rho=0.5).eval()).__enter__()
    with pytest.raises(RuntimeError, match=r"retainer\.__exit__\(None, None, None\)"):
        retain(model, Truncate(rho=0.5).eval()).__enter__()
    retainer.__exit__(None, None, None)
    with retain(model, Truncate(rho=0.5).eval()) as second:
        states(model, input_ids=ids)
        assert second.report.kept


def test_contexts_one_after_the_other_and_on_two_models_are_fine(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    one, other = tiny(), tiny()
    for _ in range(2):
        with retain(one, Truncate(rho=0.5).eval()), retain(other, Truncate(rho=0.5).eval()):
            assert torch_equal(states(one, input_ids=ids), states(other, input_ids=ids))
