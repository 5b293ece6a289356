"""Test that results do not depend on the other samples of a batch, and that the budget is met to the token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Retainer

POLICIES = ("adaptive", "threshold", "random", "truncate")


def kept_positions(retainer: Retainer, row: int) -> dict[int, list[int]]:
    return {
        layer_idx: [position for position in indices[row].tolist() if position >= 0]
        for layer_idx, indices in retainer.report.keep_indices.items()
    }


@pytest.mark.parametrize("name", POLICIES)
def test_sample_gets_the_same_result_alone_and_in_a_padded_batch(
    encoder: nn.Module,
    family: str,
    name: str,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    batch = make_batch(encoder)
    with torch.no_grad(), attach(encoder, policy_named(name), protected_ids=[3]) as retainer:
        together = encoder(**batch).last_hidden_state
        kept = [kept_positions(retainer, row) for row in range(3)]
        assert kept[0] and any(len(kept[0][0]) != len(other[0]) for other in kept[1:])
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = encoder(**{key: value[row : row + 1, :length] for key, value in batch.items()}).last_hidden_state
            assert kept_positions(retainer, 0) == kept[row]
            assert (alone[0] - together[row, :length]).abs().max() < 5e-6


@pytest.mark.parametrize("name", ["adaptive", "random", "truncate"])
@pytest.mark.parametrize("schedule", ["flat", "linear", "geometric", "learned", [0.9, 0.5, 0.5]])
def test_kept_counts_are_the_budget(
    name: str,
    schedule: str | list[float],
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    encoder, policy = build("bert"), policy_named(name, schedule=schedule)
    batch = make_batch(encoder)
    with torch.no_grad(), attach(encoder, policy) as retainer:
        encoder(**batch)
    report, real = retainer.report, batch["attention_mask"].sum(1)
    assert torch.equal(report.lengths, real) and sorted(report.kept) == [0, 1, 2]
    for gate, layer_idx in enumerate(policy.layers):
        assert torch.equal(report.kept[layer_idx], policy.budget.counts(real)[gate])
        assert torch.equal(report.targets[layer_idx], report.kept[layer_idx].float())
        used = report.keep_indices[layer_idx] >= 0
        assert torch.equal(used.sum(1), report.kept[layer_idx])


@pytest.mark.parametrize("name", POLICIES)
def test_padding_is_never_kept_and_protected_tokens_always_are(
    encoder: nn.Module,
    family: str,
    name: str,
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    batch = make_batch(encoder)
    lengths = batch["attention_mask"].sum(1).tolist()
    protected = torch.zeros(3, 23, dtype=torch.bool)
    protected[:, [1, 7, 8, 14, 22]] = True  # some of them are padding in the shorter samples
    with (
        torch.no_grad(),
        attach(encoder, policy_named(name, rho=0.2, schedule="flat")) as retainer,
        retainer.protect(protected),
    ):
        encoder(**batch)
    for row, length in enumerate(lengths):
        required = {position for position in (1, 7, 8, 14, 22) if position < length}
        for kept in kept_positions(retainer, row).values():
            assert kept == sorted(kept) and max(kept) < length
            assert required <= set(kept)
            if name != "threshold":
                assert len(kept) == max(int(0.2 * length), len(required))


def test_protect_overrides_protected_ids_inside_its_block(
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    policy_named: Callable[..., Any],
    attach: Callable[..., Retainer],
) -> None:
    encoder = build("bert")
    batch = make_batch(encoder)
    batch["input_ids"][:, 1:] = torch.where(batch["input_ids"][:, 1:] == 4, 5, batch["input_ids"][:, 1:])
    batch["input_ids"][:, 8] = 4
    last: Tensor = torch.zeros(3, 23).bool()
    last[0, 22] = True
    policy = policy_named("truncate", rho=0.25, schedule="flat")
    with torch.no_grad(), attach(encoder, policy, protected_ids=[4]) as retainer:
        with retainer.protect(last):
            encoder(**batch)
        assert kept_positions(retainer, 0)[0] == [0, 1, 2, 3, 22]
        encoder(**batch)
        assert kept_positions(retainer, 0)[0] == [0, 1, 2, 3, 8]
