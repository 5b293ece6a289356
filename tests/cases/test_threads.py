"""Test that threads can share one model: each call keeps its own tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.equivalence.conftest import TINY
from torch import Tensor

from retention.engine import LayerView
from retention.errors import ConfigError
from retention.policies import AttentionTopK, KeyNorm, RetentionPolicy, ToMe, Truncate, retain
from retention.trained import Classifier, load

LENGTHS = (8, 13, 21, 34)
CALLS = 50  # per thread


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def wrong_answers(call: Callable[[int], Tensor], threads: int = 4, calls: int = CALLS) -> list[str]:
    """Call with inputs 0 .. 3 from several threads, and list answers that differ from those of one thread."""
    expected = [call(index) for index in range(4)]

    def work(offset: int) -> list[str]:
        wrong = []
        for number in range(calls):
            index = (number + offset) % 4
            try:
                answer = call(index)
                if answer.shape != expected[index].shape or not torch.allclose(answer, expected[index], atol=1e-5):
                    wrong.append(f"input {index}")
            except Exception as error:
                wrong.append(repr(error))
        return wrong

    with ThreadPoolExecutor(threads) as pool:
        return [each for result in pool.map(work, range(threads)) for each in result]


@pytest.mark.parametrize("policy", [Truncate, AttentionTopK, KeyNorm, ToMe])
def test_one_context_serves_four_threads(
    policy: type[RetentionPolicy], tiny: Callable[..., Any], states: Callable[..., Tensor]
) -> None:
    model = tiny(attn_implementation="eager")
    inputs = [torch.randint(5, 50, (1, length)) for length in LENGTHS]
    with retain(model, policy(rho=0.3).eval()):
        assert wrong_answers(lambda index: states(model, input_ids=inputs[index])) == []


@pytest.mark.parametrize("family", ["deberta-v2", "longformer", "modernbert", "t5"])
def test_families_with_positions_in_every_layer_serve_threads(family: str, states: Callable[..., Tensor]) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model: Any = AutoModel.from_config(AutoConfig.for_model(family, **TINY[family])).eval()
    encoder = model.get_encoder() if family == "t5" else model
    inputs = [torch.randint(5, 50, (2, length)) for length in LENGTHS]
    masks = [torch.ones_like(tokens) for tokens in inputs]
    for mask in masks:
        mask[1, 5:] = 0
    with retain(model, Truncate(rho=0.4).eval()):
        assert wrong_answers(lambda i: states(encoder, input_ids=inputs[i], attention_mask=masks[i]), calls=10) == []


class Meeting(Truncate):
    """Policy whose passes in two threads meet at the first gate, so that they always overlap."""

    barrier: Barrier | None = None

    def score(self, view: LayerView) -> Tensor:
        if self.barrier is not None and view.layer_idx == 0:
            with suppress(BrokenBarrierError):  # the other thread has failed
                self.barrier.wait(timeout=5)
        return super().score(view)


@pytest.mark.parametrize("protected", [True, False], ids=["state_per_thread", "shared_state"])
def test_overlapping_passes_are_wrong_only_if_their_state_is_shared(
    protected: bool, tiny: Callable[..., Any], states: Callable[..., Tensor]
) -> None:
    model, policy = tiny(), Meeting(rho=0.3).eval()
    inputs = [torch.randint(5, 50, (1, length)) for length in LENGTHS]
    with retain(model, policy) as retainer:
        if not protected:  # the negative control
            retainer._thread = SimpleNamespace(current=None, last=None, protected=None, spans=None)  # type: ignore[assignment]
            policy.pass_values._local = SimpleNamespace()  # type: ignore[assignment]
        expected = [states(model, input_ids=inputs[index]) for index in (1, 3)]
        policy.barrier = Barrier(2)

        def call(index: int) -> Tensor | str:
            try:
                return states(model, input_ids=inputs[index])
            except Exception as error:
                return repr(error)

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(call, (1, 3)))
    right = [
        isinstance(answer, Tensor) and answer.shape == dense.shape and torch.allclose(answer, dense, atol=1e-5)
        for answer, dense in zip(answers, expected, strict=True)
    ]
    assert all(right) is protected


def test_report_and_protection_belong_to_their_thread(tiny: Callable[..., Any], states: Callable[..., Tensor]) -> None:
    model = tiny()
    tokens = torch.randint(5, 50, (1, 20))
    last = torch.zeros(1, 20, dtype=torch.bool)
    last[0, -1] = True
    with retain(model, Truncate(rho=0.3, schedule="flat").eval()) as retainer:
        states(model, input_ids=tokens)
        with ThreadPoolExecutor(1) as pool:

            def other() -> list[int]:
                with pytest.raises(RuntimeError, match="no forward pass has run"):
                    _ = retainer.report
                with retainer.protect(last):
                    states(model, input_ids=tokens)
                kept: list[int] = retainer.report.keep_indices[0][0].tolist()
                return kept

            assert pool.submit(other).result() == [0, 1, 2, 3, 4, 19]
        assert retainer.report.keep_indices[0][0].tolist() == [0, 1, 2, 3, 4, 5]


def test_threads_can_enter_the_same_context(tiny: Callable[..., Any], states: Callable[..., Tensor]) -> None:
    model = tiny()
    inputs = [torch.randint(5, 50, (1, length)) for length in LENGTHS]
    dense = [states(model, input_ids=tokens) for tokens in inputs]
    retainer = retain(model, Truncate(rho=0.3).eval())

    def call(index: int) -> Tensor:
        with retainer:
            return states(model, input_ids=inputs[index])

    assert wrong_answers(call) == []
    assert not torch.allclose(call(0), dense[0], atol=1e-3)
    assert all(torch.equal(states(model, input_ids=tokens), full) for tokens, full in zip(inputs, dense, strict=True))


def test_trained_model_predicts_in_four_threads(trained_run: Path) -> None:
    model = load(trained_run)
    assert isinstance(model, Classifier)
    texts = ["river forest " * 4, "market price " * 9, "goal team match " * 15, "stone"]

    def call(index: int) -> Tensor:
        [prediction] = model.predict([texts[index]])
        return torch.tensor([*prediction.probabilities.values(), prediction.keep_ratio])

    assert wrong_answers(call, calls=30) == []


def test_budget_of_one_thread_leaves_the_others_alone(tiny: Callable[..., Any], states: Callable[..., Tensor]) -> None:
    model, policy, ids = tiny(), Truncate(rho=0.3).eval(), torch.randint(5, 50, (1, 30))
    expected = {}
    with retain(model, policy):
        expected[0.3] = states(model, input_ids=ids)
        for rho in (0.6, 1.0):
            with policy.at_budget(rho):
                expected[rho] = states(model, input_ids=ids)
        assert not torch.equal(expected[0.3], expected[0.6])

        def work(rho: float) -> bool:
            right = True
            for _ in range(CALLS):
                if rho == 0.3:
                    right &= torch.equal(states(model, input_ids=ids), expected[rho])
                else:
                    with policy.at_budget(rho):
                        right &= torch.equal(states(model, input_ids=ids), expected[rho])
            return right

        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(work, (0.3, 0.6, 1.0))) == [True, True, True]


@pytest.mark.parametrize("rho", [0.0, 1.5, float("nan"), "0.5"])
def test_budget_out_of_range_is_refused(rho: Any, tiny: Callable[..., Any]) -> None:
    policy = Truncate(rho=0.3).eval()
    retain(tiny(), policy)
    with pytest.raises(ConfigError, match="rho: "), policy.at_budget(rho):
        pass
