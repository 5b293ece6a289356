"""Test gathering kept tokens and restoring the full sequence."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retention.engine.compaction import compact, compact_indices, restore


@st.composite
def keep_masks(draw: st.DrawFn) -> Tensor:
    size, length = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    return torch.rand(size, length, generator=generator) < draw(st.sampled_from([0.2, 0.6, 1.1]))


@given(keep=keep_masks())
def test_kept_tokens_come_first_in_order(keep: Tensor) -> None:
    indices, slots = compact_indices(keep)
    assert indices.shape[1] == keep.sum(1).max()
    used = torch.ones_like(indices, dtype=torch.bool) if slots is None else slots
    assert (slots is None) == (len(set(keep.sum(1).tolist())) == 1)
    for row in range(len(keep)):
        assert indices[row][used[row]].tolist() == keep[row].nonzero().flatten().tolist()
        assert len(set(indices[row].tolist())) == indices.shape[1]  # scatter must not write a position twice


@given(keep=keep_masks())
def test_restore_undoes_compact(keep: Tensor) -> None:
    states = torch.randn(*keep.shape, 3)
    indices, slots = compact_indices(keep)
    short = compact(states, indices)
    assert torch.equal(restore(short, states, indices, slots), states)
    changed = restore(short + 1, states, indices, slots)
    torch.testing.assert_close(changed, states + keep.unsqueeze(-1).float())


def test_compact_accepts_any_trailing_shape() -> None:
    indices = torch.tensor([[2, 0], [1, 3]])
    flat = torch.arange(8).reshape(2, 4)
    assert compact(flat, indices).tolist() == [[2, 0], [5, 7]]
    deep = torch.arange(48).reshape(2, 4, 3, 2)
    assert torch.equal(compact(deep, indices)[1, 0], deep[1, 1])
