"""Test that the learned schedule moves budget to where tokens matter most, and beats the linear one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from retention.engine import Retainer
from retention.engine.adapters import adapter_for
from retention.policies import Adaptive

RHO, LENGTH = 0.3, 30


def encoder(working: int) -> BertModel:
    """Build four layers of which only 0 and ``working`` change the states; at the others missing tokens do no harm."""
    torch.manual_seed(1)
    model = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.3,
        ),
        add_pooling_layer=False,
    ).eval()
    for layer in {1, 2, 3} - {working}:
        block = model.encoder.layer[layer]
        for part in (block.attention.output.dense, block.output.dense):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    return model.requires_grad_(False)


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(1, 50, (4, LENGTH), generator=generator), torch.ones(4, LENGTH, dtype=torch.long)


class Toy:
    """Toy task: match the states of the dense encoder, where tokens matter at one layer only."""

    def __init__(self, working: int, schedule: str) -> None:
        self.model = encoder(working)
        torch.manual_seed(2)
        self.policy = Adaptive(rho=RHO, schedule=schedule)
        self.policy.build(adapter_for("bert").shape(self.model.config))

    def loss(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        with torch.no_grad():
            target = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        with Retainer(self.model, self.policy, layers=self.policy.layers) as retainer:
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return (states - target).square().mean(), retainer.report.kept

    def train(self, phase: str, steps: int) -> None:
        self.policy.train()
        self.policy.phase = phase
        optimizer = torch.optim.Adam(self.policy.parameters(), lr=0.1)
        for _, (ids, mask) in zip(range(steps), batches(3), strict=False):
            optimizer.zero_grad()
            self.loss(ids, mask)[0].backward()
            optimizer.step()

    def test(self) -> float:
        self.policy.eval()
        with torch.no_grad():
            return sum(float(self.loss(*batch)[0]) for _, batch in zip(range(8), batches(4), strict=False)) / 8


@pytest.mark.parametrize("working", [1, 2, 3])
def test_task_gradient_raises_the_budget_before_the_working_layer(working: int) -> None:
    toy = Toy(working, "learned")
    toy.policy.train()
    toy.policy.phase = "soft"
    for _, batch in zip(range(8), batches(3), strict=False):
        toy.loss(*batch)[0].backward()
    gradient: Any = toy.policy.budget.allocation.grad  # type: ignore[union-attr]
    assert int(gradient.argmin()) == working - 1 and gradient[working - 1] < 0, "descent raises its budget most"


def test_hard_pruning_freezes_the_division() -> None:
    toy = Toy(1, "learned")
    toy.policy.train()
    toy.policy.phase = "hard"
    toy.loss(*next(batches(3)))[0].backward()
    assert toy.policy.budget.allocation is not None and toy.policy.budget.allocation.grad is None
    assert all(parameter.grad is not None for parameter in toy.policy.scorers.parameters())


@pytest.mark.parametrize("working", [1, 3])
def test_learned_division_beats_linear(working: int) -> None:
    toys = {schedule: Toy(working, schedule) for schedule in ("linear", "learned")}
    for toy in toys.values():
        toy.train("soft", 20)
        toy.train("hard", 5)
    linear, learned = (toys[schedule].policy.budget.keep_ratios().detach() for schedule in ("linear", "learned"))
    assert learned.mean().item() == pytest.approx(RHO, abs=1e-5), "the budget is the same"
    if working == 1:
        assert learned[0] > linear[0] + 0.1, "the first gate determines the input of layer 1"
    else:
        assert learned[2] > linear[2] + 0.1, "the input of layer 3 passed all gates"
    assert toys["learned"].test() < 0.9 * toys["linear"].test()


def test_counts_at_test_time_are_the_floor_of_the_learned_ratios() -> None:
    toy = Toy(1, "learned")
    toy.train("soft", 5)
    toy.policy.eval()
    with torch.no_grad():
        _, kept = toy.loss(*next(batches(5)))
    ratios = toy.policy.budget.keep_ratios().detach().double()
    assert len(set(ratios.tolist())) == 3
    assert {gate: counts.tolist() for gate, counts in kept.items()} == {
        gate: 4 * [max(1, int(ratio * LENGTH + 1e-6))] for gate, ratio in enumerate(ratios.tolist())
    }
