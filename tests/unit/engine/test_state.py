"""Test the state of a forward pass: masks, gates and the report."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from retention.engine import Decision, ForwardState

CLOSED = torch.finfo(torch.float32).min / 4


def state(lengths: tuple[int, ...] = (6, 4), width: int = 6) -> ForwardState:
    mask = (torch.arange(width).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)).long()
    return ForwardState(mask, torch.zeros(len(lengths), width, dtype=torch.bool), None)


def keep(*rows: list[int], width: int = 6) -> Tensor:
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, positions in enumerate(rows):
        mask[row, positions] = True
    return mask


def test_unmodified_batch_without_padding_needs_no_mask() -> None:
    full = state((6, 6))
    assert not full.is_modified and full.mask(torch.float32, boolean=True) is None


def test_boolean_and_additive_masks_agree() -> None:
    short = state()
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=keep([0, 2, 5], [1])), remember=True)
    boolean, additive = short.mask(torch.float32, boolean=True), short.mask(torch.float32, boolean=False)
    assert boolean is not None and additive is not None
    assert boolean.tolist() == [[[[True, True, True]]], [[[True, False, False]]]]
    assert torch.equal(boolean, additive == 0) and additive.min() == torch.finfo(torch.float32).min


def test_equal_counts_need_no_mask() -> None:
    short = state()
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=keep([0, 5], [1, 2])), remember=True)
    assert short.mask(torch.float32, boolean=False) is None
    assert short.positions.tolist() == [[0, 5], [1, 2]]


def test_window_is_measured_in_original_positions() -> None:
    short = state((6, 6))
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=keep([0, 2, 5], [1, 2, 3])), remember=True)
    mask = short.mask(torch.float32, boolean=True, window=2)
    assert mask is not None
    assert mask[0, 0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert mask[1, 0].all()


def test_every_query_of_a_windowed_mask_has_a_key() -> None:
    short = state((6, 6))
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=keep([0, 1, 2, 3, 4, 5], [0])), remember=True)
    mask = short.mask(torch.float32, boolean=True, window=1)
    assert mask is not None and mask.any(-1).all()
    assert mask[1, 0, 0].tolist() == [True, False, False, False, False, False]  # real tokens do not attend to padding


def test_padding_is_removed_even_if_a_gate_keeps_it() -> None:
    short = state()
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=torch.ones(2, 6, dtype=torch.bool)), remember=True)
    assert short.report.kept[0].tolist() == [6, 4]
    assert short.report.keep_indices[0].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, -1, -1]]


def test_gates_multiply_and_follow_their_tokens() -> None:
    soft, states = state(), torch.zeros(2, 6, 1)
    gates = torch.tensor([[0.5, 1, 1, 1, 1, 0.25]]).expand(2, 6)
    soft.apply(0, states, Decision(log_gates=gates.log()), remember=True)
    soft.apply(1, states, Decision(log_gates=gates.log()), remember=True)
    torch.testing.assert_close(soft.weights[0], torch.tensor([0.25, 1, 1, 1, 1, 0.0625]))
    assert soft.weights[1, 4:].tolist() == [0, 0]  # padding
    soft.apply(2, states, Decision(keep_mask=keep([0, 5], [0, 1])), remember=True)
    torch.testing.assert_close(soft.weights, torch.tensor([[0.25, 0.0625], [0.25, 1.0]]))


def test_survival_is_passed_to_later_gates() -> None:
    soft, states = state(), torch.zeros(2, 6, 1)
    assert torch.equal(soft.view(0, states).survival, soft.valid.float())
    soft.apply(0, states, Decision(survival=0.5 * soft.valid), remember=True)
    soft.apply(1, states, Decision(keep_mask=keep([0, 5, 3], [1])), remember=True)
    assert soft.view(2, states).survival.tolist() == [[0.5, 0.5, 0.5], [0.5, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_closed_gates_never_reach_infinity(dtype: torch.dtype) -> None:
    soft = state()
    for layer_idx in range(12):
        log_gates = torch.full((2, 6), CLOSED)
        soft.apply(layer_idx, torch.zeros(2, 6, 1), Decision(log_gates=log_gates), remember=True)
    mask = soft.mask(dtype, boolean=False)
    assert mask is not None and torch.isfinite(mask).all() and mask.dtype == dtype
    weights = torch.softmax(mask.float(), -1)
    assert (weights[1, 0, 0, 4:] == 0).all()  # closed tokens outweigh padding


def test_restored_undoes_two_removals() -> None:
    short = state((6, 6))
    first = torch.arange(12.0).reshape(2, 6, 1)
    second = short.apply(0, first, Decision(keep_mask=keep([0, 2, 5], [1, 2])), remember=True) + 100
    third = short.apply(1, second, Decision(keep_mask=keep([0, 2], [1], width=3)), remember=True) + 1000
    back = short.restored(third)[..., 0]
    assert back[0].tolist() == [1100, 1, 102, 3, 4, 1105]
    assert back[1].tolist() == [6, 107, 1108, 9, 10, 11]


def test_cached_values_are_built_once_per_kept_set() -> None:
    short, builds = state(), []
    for _ in range(2):
        short.cached("table", lambda: builds.append(1))
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=keep([0], [1])), remember=False)
    short.cached("table", lambda: builds.append(1))
    assert len(builds) == 2


def test_spans_follow_their_tokens() -> None:
    mask, unprotected = torch.ones(1, 6, dtype=torch.long), torch.zeros(1, 6, dtype=torch.bool)
    grouped = ForwardState(mask, unprotected, None, torch.tensor([[0, 1, 1, 1, 4, 4]]))
    grouped.apply(0, torch.zeros(1, 6, 1), Decision(keep_mask=keep([0, 2, 4, 5])), remember=False)
    spans = grouped.view(1, torch.zeros(1, 4, 1)).spans
    assert spans is not None and spans.tolist() == [[0, 1, 4, 4]]
    assert state().view(0, torch.zeros(2, 6, 1)).spans is None


@pytest.mark.parametrize("per_head", [False, True])
def test_attention_statistics_follow_their_tokens(per_head: bool) -> None:
    short = state()
    statistics = torch.arange(12.0).reshape(2, 6)
    shown = torch.stack([statistics, statistics + 100], 1) if per_head else statistics
    short.observe(shown.requires_grad_(), None)
    short.apply(0, torch.zeros(2, 6, 1), Decision(keep_mask=keep([0, 2, 5], [1, 3, 2])), remember=False)
    kept = short.attention_statistics
    assert kept is not None and not kept.requires_grad
    expected = torch.tensor([[0.0, 2, 5], [7, 8, 9]])
    assert torch.equal(kept, torch.stack([expected, expected + 100], 1) if per_head else expected)
