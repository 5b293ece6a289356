"""Test that leaving the context restores the model, and that copies of hooked models have no hooks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Retainer


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def states(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(**batch).last_hidden_state
    return output


class FailingGate:
    """Gate that fails in the middle of a forward pass."""

    def begin(self, report: Any) -> None:
        pass

    def decide(self, view: Any) -> Any:
        raise ArithmeticError("no decision")


def test_context_restores_the_model(
    encoder: nn.Module,
    family: str,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    batch = make_batch(encoder)
    before, keys = states(encoder, batch), list(encoder.state_dict())
    counted = count_hooks(encoder)  # the library may register its own hooks in the first call
    retainer = attach(encoder, policy_named("truncate"))
    for _ in range(2):  # the context can be entered again
        with retainer:
            inside = states(encoder, batch)
            assert list(encoder.state_dict()) == keys and count_hooks(encoder) > counted
        assert not torch.equal(inside, before)
        assert count_hooks(encoder) == counted
        assert torch.equal(states(encoder, batch), before)


def test_context_restores_the_model_after_an_exception(
    encoder: nn.Module, family: str, make_batch: Callable[..., Any]
) -> None:
    batch = make_batch(encoder)
    before, counted = states(encoder, batch), count_hooks(encoder)
    with pytest.raises(ArithmeticError), Retainer(encoder, FailingGate(), layers=[1]):
        states(encoder, batch)
    assert count_hooks(encoder) == counted
    assert torch.equal(states(encoder, batch), before)


def test_failed_pass_does_not_affect_the_next(
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    encoder = build("bert")
    batch = make_batch(encoder)
    with attach(encoder, policy_named("truncate")) as retainer:
        expected = states(encoder, batch)
        working, retainer.gate = retainer.gate, FailingGate()
        with pytest.raises(ArithmeticError):
            states(encoder, batch)
        retainer.gate = working
        assert torch.equal(states(encoder, batch), expected)


def test_rho_one_equals_the_model_without_retainer(
    encoder: nn.Module,
    attention: str,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
    rounding: float,
) -> None:
    batch = make_batch(encoder)
    before = states(encoder, batch)
    for name in ("adaptive", "random", "truncate"):
        with attach(encoder, policy_named(name, rho=1.0)) as retainer:
            assert (states(encoder, batch) - before).abs().max() <= rounding
        assert all(torch.equal(kept, retainer.report.lengths) for kept in retainer.report.kept.values())


def round_trip(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, round_trip])
@pytest.mark.parametrize("training", [False, True], ids=["after_eval", "after_training_pass"])
def test_copies_of_a_hooked_model_keep_every_token(
    encoder: nn.Module,
    family: str,
    duplicate: Callable[[Any], Any],
    training: bool,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    batch = make_batch(encoder)
    policy = policy_named("adaptive")
    dense = states(encoder, batch)
    with attach(encoder, policy, protected_ids=[3]):
        inside = states(encoder, batch)
        if training:
            policy.train()
            policy.phase = "soft"
            encoder(**batch).last_hidden_state.sum().backward()
            policy.eval()
        clone, policy_copy = duplicate((encoder, policy))
        assert torch.equal(states(clone, batch), dense)
        assert torch.equal(states(encoder, batch), inside) and not torch.equal(inside, dense)
    assert torch.equal(states(clone, batch), dense)
    with Retainer(clone, policy_copy, layers=policy_copy.layers, protected_ids=[3]):  # a copy can be hooked again
        assert torch.equal(states(clone, batch), inside)
    assert torch.equal(states(clone, batch), dense)
    assert policy_copy is not policy


def test_entering_twice_is_an_error(build: Callable[..., nn.Module]) -> None:
    encoder = build("bert")
    with Retainer(encoder, FailingGate(), layers=[]) as retainer, pytest.raises(RuntimeError, match="already attached"):
        retainer.__enter__()


def test_report_before_the_first_pass_is_an_error(build: Callable[..., nn.Module]) -> None:
    with (
        Retainer(build("bert"), FailingGate(), layers=[]) as retainer,
        pytest.raises(RuntimeError, match="no forward pass"),
    ):
        _ = retainer.report
