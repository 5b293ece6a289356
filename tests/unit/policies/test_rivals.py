"""Random, truncate, threshold and dense."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retention.core.duals import AscentDual, ExactDual
from retention.errors import ConfigError
from retention.policies import Dense, Random, Threshold, Truncate
from retention.policies.random import hashed_uniform


def test_truncate_keeps_the_first_tokens(built: Any, make_view: Any, ask: Any) -> None:
    policy = built(Truncate(rho=0.3, schedule="flat")).eval()
    view = make_view((20, 13, 2))
    keep = ask(policy, view).keep_mask
    assert [row.nonzero().flatten().tolist() for row in keep] == [list(range(6)), [0, 1, 2], [0]]
    view.protected[0, 19] = True
    assert ask(policy, view).keep_mask[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 19]


def test_truncate_goes_by_original_position(built: Any, make_view: Any, ask: Any) -> None:
    view = make_view((4,), lengths=torch.tensor([8]), positions=torch.tensor([[0, 7, 3, 5]]))
    keep = ask(built(Truncate(rho=0.375, schedule="flat")).eval(), view).keep_mask
    assert keep.tolist() == [[True, False, True, True]]


def test_dense_removes_nothing(built: Any) -> None:
    policy = built(Dense())
    assert policy.layers == () and policy.active == () and policy.rho == 1.0
    assert policy.price() == {} and policy.scorer_macs() == {} and not list(policy.parameters())
    with pytest.raises(ConfigError, match="rho"):
        Dense(rho=0.0)


def test_random_is_repeatable_and_differs_by_seed_layer_and_text(built: Any, make_view: Any, ask: Any) -> None:
    view = make_view((40, 40))
    policy = built(Random(rho=0.5, schedule="flat")).eval()
    first = ask(policy, view).keep_mask
    torch.manual_seed(99)  # the draw owes nothing to the global generator
    assert torch.equal(ask(policy, view).keep_mask, first)
    assert not torch.equal(ask(built(Random(rho=0.5, schedule="flat", seed=1)).eval(), view).keep_mask, first)
    numbers = [hashed_uniform(make_view((40, 40), layer_idx=layer), 0) for layer in (0, 1)]
    assert (numbers[0] != numbers[1]).float().mean() > 0.99
    assert not torch.equal(first[0], first[1])


def test_random_does_not_depend_on_batch_order_or_padding(built: Any, make_view: Any, ask: Any) -> None:
    policy = built(Random(rho=0.5, schedule="flat")).eval()
    view = make_view((20, 13, 7))
    together = ask(policy, view).keep_mask
    flipped = make_view((7, 13, 20), input_ids=view.input_ids.flip(0))
    assert torch.equal(ask(policy, flipped).keep_mask, together.flip(0))
    wide = torch.randint(5, 999, (3, 30))
    wide[:, :20] = view.input_ids
    assert torch.equal(ask(policy, make_view((20, 13, 7), width=30, input_ids=wide)).keep_mask[:, :20], together)


def test_random_draws_anew_in_training(built: Any, make_view: Any, ask: Any) -> None:
    policy, view = built(Random(rho=0.5, schedule="flat")).train(), make_view((40, 40))
    torch.manual_seed(0)
    first, second = ask(policy, view).keep_mask, ask(policy, view).keep_mask
    assert not torch.equal(first, second) and first.sum(1).tolist() == second.sum(1).tolist() == [20, 20]


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_hashed_numbers_look_uniform_and_unrelated(seed: int, make_view: Any) -> None:
    rows, width = 400, 64
    view = make_view((width,) * rows)
    numbers = hashed_uniform(view, seed)
    assert numbers.min() >= 0 and numbers.max() < 1
    count = rows * width
    assert abs(numbers.mean().item() - 0.5) < 4 / (12 * count) ** 0.5
    for tenth in torch.histc(numbers, 10, 0, 1).tolist():
        assert abs(tenth - count / 10) < 4 * (count * 0.1 * 0.9) ** 0.5
    for along in (numbers.mean(0), numbers.mean(1)):  # no position and no text is preferred
        size = count / len(along)
        assert (along - 0.5).abs().max() < 5 / (12 * size) ** 0.5
    centred = numbers - 0.5
    for shifted in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(shifted.mean().item()) < 4 / 12 / shifted.numel() ** 0.5
    assert abs((centred * (hashed_uniform(view, seed + 1) - 0.5)).mean().item()) < 4 / 12 / count**0.5


def test_hash_is_unchanged(make_view: Any) -> None:
    """Published random rows depend on these numbers."""
    view = make_view((3,), input_ids=torch.tensor([[101, 2023, 102]]))
    assert [round(number, 6) for number in hashed_uniform(view, 0)[0].tolist()] == [0.942465, 0.10432, 0.687889]


def threshold(built: Any, level: float, **settings: Any) -> Any:
    return built(
        Threshold(**{"dual": ExactDual(), "rho": 0.5, "schedule": "flat", "threshold": level, **settings})
    ).eval()


def test_threshold_counts_follow_the_text(built: Any, make_view: Any, ask: Any) -> None:
    view = make_view((30, 30, 30, 30))
    policy = threshold(built, 0.5)
    kept = ask(policy, view).keep_mask.sum(1)
    assert len(set(kept.tolist())) > 1
    low, high = (ask(threshold(built, level), view).keep_mask for level in (0.45, 0.55))
    assert (high <= low).all() and high.sum() < low.sum()


def test_threshold_keeps_exactly_the_probable_tokens(built: Any, make_view: Any, ask: Any) -> None:
    view = make_view((20, 13))
    policy = threshold(built, 0.5, dual=AscentDual(), keep_bias=0.0)
    keep = ask(policy, view).keep_mask
    expected = (torch.sigmoid(policy.score(view)) >= 0.5) | view.protected
    best = policy.score(view).masked_fill(~view.valid, float("-inf")).argmax(1)
    expected[torch.arange(2), best] = True
    assert torch.equal(keep, expected & view.valid)


def test_threshold_never_keeps_nothing(built: Any, make_view: Any, ask: Any) -> None:
    view = make_view((20, 13), protected=torch.zeros(2, 20, dtype=torch.bool))
    keep = ask(threshold(built, 0.99, dual=AscentDual(), keep_bias=-9.0), view).keep_mask
    assert keep.sum(1).tolist() == [1, 1] and not keep[~view.valid].any()


def test_threshold_trains_like_adaptive(built: Any, make_view: Any, ask: Any) -> None:
    policy = threshold(built, 0.5).train()
    for phase in ("soft", "hard"):
        policy.phase = phase
        decision = ask(policy, make_view())
        assert (decision.keep_mask is None) == (phase == "soft") and decision.log_gates.requires_grad


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5])
def test_threshold_range(level: float) -> None:
    with pytest.raises(ConfigError, match=r"threshold: the probability threshold must be in \(0, 1\)"):
        Threshold(dual=ExactDual(), rho=0.5, threshold=level)
