"""Test that a compiled model drops tokens inside the context, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from retention.policies import Truncate, retain


@pytest.fixture(autouse=True)
def forget_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["wrapper", "in_place"])
@pytest.mark.parametrize(
    "class_name", ["BertModel", pytest.param("BertForSequenceClassification", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "warm",
    [pytest.param(True, id="called_before"), pytest.param(False, id="first_call_inside", marks=pytest.mark.slow)],
)
def test_compiled_model_drops_tokens_inside_the_context_only(
    warm: bool, class_name: str, method: str, tiny: Callable[..., Any], ids: Tensor
) -> None:
    model, plain = tiny(class_name), tiny(class_name)
    compiled: Any = model
    if method == "wrapper":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")

    def run(called: Any) -> Tensor:
        with torch.no_grad():
            output: Tensor = called(input_ids=ids)[0]
        return output

    dense = run(plain)
    if warm:
        torch.testing.assert_close(run(compiled), dense)
    with retain(plain, Truncate(rho=0.3).eval()):
        expected = run(plain)
    for target in (model, compiled, model):
        with retain(target, Truncate(rho=0.3).eval()) as retainer:
            torch.testing.assert_close(run(compiled), expected)
            assert sorted(retainer.report.kept) == [0, 1, 2]
        torch.testing.assert_close(run(compiled), dense)
    assert not torch.allclose(expected, dense, atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_model_with_one_compiled_layer_drops_tokens_inside_the_context_only(
    tiny: Callable[..., Any], ids: Tensor, states: Callable[..., Tensor]
) -> None:
    model, plain = tiny(), tiny()
    model.encoder.layer[1].compile(backend="eager")
    dense = states(plain, input_ids=ids)
    torch.testing.assert_close(states(model, input_ids=ids), dense)
    for rho in (0.3, 0.6):
        with retain(plain, Truncate(rho=rho).eval()):
            expected = states(plain, input_ids=ids)
        with retain(model, Truncate(rho=rho).eval()):
            torch.testing.assert_close(states(model, input_ids=ids), expected)
        torch.testing.assert_close(states(model, input_ids=ids), dense)
