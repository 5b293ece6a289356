"""Test random selection."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from retention.policies import Random, retain
from retention.policies.random import hashed_uniform


def test_selection_is_reproducible_and_differs_by_seed_layer_and_sample(
    build_policy: Any, make_view: Any, decide: Any
) -> None:
    view = make_view((40, 40))
    policy = build_policy(Random(rho=0.5, schedule="flat")).eval()
    first = decide(policy, view).keep_mask
    torch.manual_seed(99)  # independent of the global generator
    assert torch.equal(decide(policy, view).keep_mask, first)
    assert not torch.equal(decide(build_policy(Random(rho=0.5, schedule="flat", seed=1)).eval(), view).keep_mask, first)
    numbers = [hashed_uniform(make_view((40, 40), layer_idx=layer), 0) for layer in (0, 1)]
    assert (numbers[0] != numbers[1]).float().mean() > 0.99
    assert not torch.equal(first[0], first[1])


def test_selection_does_not_depend_on_batch_order_or_padding(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(Random(rho=0.5, schedule="flat")).eval()
    view = make_view((20, 13, 7))
    together = decide(policy, view).keep_mask
    flipped = make_view((7, 13, 20), input_ids=view.input_ids.flip(0))
    assert torch.equal(decide(policy, flipped).keep_mask, together.flip(0))
    wide = torch.randint(5, 999, (3, 30))
    wide[:, :20] = view.input_ids
    assert torch.equal(decide(policy, make_view((20, 13, 7), width=30, input_ids=wide)).keep_mask[:, :20], together)


def test_selection_is_sampled_in_every_training_pass(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = build_policy(Random(rho=0.5, schedule="flat")).train(), make_view((40, 40))
    torch.manual_seed(0)
    first, second = decide(policy, view).keep_mask, decide(policy, view).keep_mask
    assert not torch.equal(first, second) and first.sum(1).tolist() == second.sum(1).tolist() == [20, 20]


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_hashed_numbers_are_uniform_and_uncorrelated(seed: int, make_view: Any) -> None:
    rows, width = 400, 64
    view = make_view((width,) * rows)
    numbers = hashed_uniform(view, seed)
    assert numbers.min() >= 0 and numbers.max() < 1
    count = rows * width
    assert abs(numbers.mean().item() - 0.5) < 4 / (12 * count) ** 0.5
    for tenth in torch.histc(numbers, 10, 0, 1).tolist():
        assert abs(tenth - count / 10) < 4 * (count * 0.1 * 0.9) ** 0.5
    for along in (numbers.mean(0), numbers.mean(1)):  # no position and no sample is preferred
        size = count / len(along)
        assert (along - 0.5).abs().max() < 5 / (12 * size) ** 0.5
    centered = numbers - 0.5
    for shifted in (centered[:, 1:] * centered[:, :-1], centered[1:] * centered[:-1]):
        assert abs(shifted.mean().item()) < 4 / 12 / shifted.numel() ** 0.5
    assert abs((centered * (hashed_uniform(view, seed + 1) - 0.5)).mean().item()) < 4 / 12 / count**0.5


def test_hash_values_are_unchanged(make_view: Any) -> None:
    """Committed results of the random baseline depend on these numbers."""
    view = make_view((3,), input_ids=torch.tensor([[101, 2023, 102]]))
    assert [round(number, 6) for number in hashed_uniform(view, 0)[0].tolist()] == [0.942465, 0.10432, 0.687889]


@pytest.mark.parametrize("spans", [False, True])
def test_selection_does_not_depend_on_the_side_of_the_padding(spans: bool) -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16)
    model, row = BertModel(config).eval(), torch.randint(5, 50, (1, 30))
    kept = []
    for left, right in ((0, 0), (0, 9), (9, 0), (4, 5)):
        ids = torch.nn.functional.pad(row, (left, right))
        mask = torch.nn.functional.pad(torch.ones_like(row), (left, right))
        columns = torch.arange(ids.shape[1])[None]
        starts = torch.where(columns < left, columns, left + (columns - left) // 3 * 3)  # spans of three tokens
        with (
            retain(model, Random(rho=0.5, schedule="flat").eval()) as retainer,
            torch.no_grad(),
            retainer.prune_together(starts) if spans else nullcontext(),
        ):
            model(input_ids=ids, attention_mask=mask)
        kept.append({layer: (each - left).tolist() for layer, each in retainer.report.keep_indices.items()})
    assert len(kept[0]) == 3 and all(each == kept[0] for each in kept)
