"""Test that phases of a training go on from a stored state as if they had not been stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.unit.cache.decoders import random_scorers, texts, tiny_decoder
from torch import nn

from retention.cache import CacheBudget
from retention.cache.distillation import DistillationExample, DistillationPhase, DistillationSettings
from retention.cache.phase import TrainingPhase
from retention.cache.small_decoder import DecoderPhase, DecoderSettings, build_decoder
from retention.cache.symbol_recall import SymbolRecall
from retention.cache.targets import TargetExamples, TargetSettings, collect_example
from retention.cache.training import RankingPhase, TrainingSettings
from retention.errors import CheckpointError, TrainingError

BUDGET = CacheBudget(size=10, sinks=2, window=4)
TARGETS = TargetSettings(sinks=2, window=4, min_queries=4)
EASY = SymbolRecall(keys=4, values=4, fillers=2, pairs=1, reassigned=0, context=8, tail=2)
Made = tuple[TrainingPhase, nn.Module]


def token_ids(count: int = 3) -> list[torch.Tensor]:
    return [texts("none", lengths=(24,), seed=seed).input_ids for seed in range(count)]


def ranking() -> Made:
    model = tiny_decoder("llama")
    policy = random_scorers(model)
    return RankingPhase(policy, TargetExamples(model, token_ids(), TARGETS), TrainingSettings(epochs=3)), policy


def distillation() -> Made:
    model = tiny_decoder("llama")
    policy = random_scorers(model)
    examples = [DistillationExample.of_text(text, BUDGET) for text in token_ids()]
    return DistillationPhase(model, policy, examples, BUDGET, DistillationSettings(epochs=3)), policy


def decoder() -> Made:
    torch.manual_seed(0)
    settings = DecoderSettings(width=32, batch=8, questions=2, steps=60, accuracy=1.0)
    model = build_decoder(EASY, settings)
    return DecoderPhase(model, EASY, settings, torch.Generator().manual_seed(0)), model


PHASES = [ranking, distillation, decoder]


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def stored(phase: TrainingPhase, model: nn.Module) -> Any:
    """Return a copy of what a checkpoint holds."""
    return copy.deepcopy((phase.state_dict(), phase.optimizer.state_dict(), model.state_dict()))


@pytest.mark.parametrize("make", PHASES)
@pytest.mark.parametrize("lost", [None, "generator"])
def test_a_stopped_phase_goes_on_bit_for_bit(make: Callable[[], Made], lost: str | None) -> None:
    """With the state of the generator lost (negative control) it does not."""
    whole, expected = make()
    for _ in range(4):
        whole.advance()
    state, optimizer, weights = stored(whole, expected)
    for _ in range(4):
        whole.advance()
    resumed, model = make()
    model.load_state_dict(weights)
    resumed.optimizer.load_state_dict(optimizer)
    if lost is not None:
        state[lost] = torch.Generator().manual_seed(7).get_state()
    resumed.load_state_dict(state)
    results = [resumed.advance() for _ in range(4)]
    assert [result.step for result in results] == [5, 6, 7, 8]
    assert same(expected, model) == (lost is None)


@pytest.mark.parametrize("make", [ranking, distillation])
def test_a_phase_ends_after_its_epochs_and_uses_every_example_in_each(make: Callable[[], Made]) -> None:
    phase, _ = make()
    seen: list[int] = []

    class Listed(list):  # type: ignore[type-arg]
        def __getitem__(self, index: Any) -> Any:
            seen.append(index)
            return super().__getitem__(index)

    phase.examples = Listed([phase.examples[index] for index in range(3)])  # type: ignore[attr-defined]
    results = list(phase.run())
    assert phase.is_finished and len(results) == results[-1].steps == 9
    assert [sorted(seen[start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_a_state_with_other_examples_is_refused() -> None:
    phase, _ = ranking()
    phase.advance()
    state = {**phase.state_dict(), "examples": 5}
    with pytest.raises(CheckpointError, match="5 examples and cannot go on with 3"):
        phase.load_state_dict(state)


def test_a_loss_that_is_no_number_stops_a_phase_before_its_weights_change() -> None:
    phase, policy = distillation()
    before = copy.deepcopy(policy)
    phase._loss = lambda: torch.tensor(torch.nan, requires_grad=True)  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="the phase distillation is nan; lower lr"):
        phase.advance()
    assert same(before, policy) and phase.done == 0


def test_a_decoder_that_does_not_learn_names_the_setting() -> None:
    phase, _ = decoder()
    with pytest.raises(TrainingError, match=r"after 60 steps \(seed 0\); raise its steps .*task\.decoder\.steps"):
        list(phase.run())


def test_examples_are_collected_once_with_eager_attention() -> None:
    model = tiny_decoder("llama", "sdpa")
    examples = TargetExamples(model, token_ids(), TARGETS)
    first = examples[1]
    assert examples[1] is first and len(examples) == 3 and len(examples._collected) == 1
    assert model.config._attn_implementation == "sdpa"
    expected = collect_example(tiny_decoder("llama", "eager"), token_ids()[1], TARGETS)
    assert torch.equal(first.targets, expected.targets) and torch.equal(first.hidden_states, expected.hidden_states)
