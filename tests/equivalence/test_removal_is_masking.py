"""Test that removing tokens equals masking them as keys, for every family and attention implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Retainer, adapters
from retention.errors import ConfigError

TOLERANCE = 5e-6
PADDED, FULL = (23, 15, 9), (23, 23, 23)

each_padding = pytest.mark.parametrize("lengths", [PADDED, FULL], ids=["padded", "full"])


def removed_states(encoder: nn.Module, batch: dict[str, Tensor], gate: Any, prune_at: str = "after_layer") -> Tensor:
    with torch.no_grad(), Retainer(encoder, gate, layers=[0, 2], prune_at=prune_at):
        states: Tensor = encoder(**batch).last_hidden_state
    return states


@each_padding
def test_two_removals_equal_masking(
    encoder: nn.Module,
    attention: str,
    lengths: tuple[int, ...],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder, lengths)
    keep = nested_keep(batch["attention_mask"])
    removed = removed_states(encoder, batch, fixed_gate(keep))
    masked = masked_states(encoder, batch, keep)
    assert (removed - masked)[keep[2]].abs().max() < TOLERANCE
    with torch.no_grad():
        dense = encoder(**batch).last_hidden_state
    assert (dense - masked)[keep[2]].abs().max() > 1e-3  # the removal changes the kept tokens


@each_padding
def test_removal_between_attention_and_feed_forward_equals_masking(
    encoder: nn.Module,
    family: str,
    attention: str,
    lengths: tuple[int, ...],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    """Kept tokens are those of a removal after the layer, since only later layers would attend to the removed ones."""
    batch = make_batch(encoder, lengths)
    keep = nested_keep(batch["attention_mask"])
    if "after_attention" not in adapters()[family].prune_points:
        with pytest.raises(ConfigError, match="prune_at: must be one of after_layer with"):
            removed_states(encoder, batch, fixed_gate(keep), "after_attention")
        return
    removed = removed_states(encoder, batch, fixed_gate(keep), "after_attention")
    assert (removed - masked_states(encoder, batch, keep))[keep[2]].abs().max() < TOLERANCE
    late = removed_states(encoder, batch, fixed_gate(keep))
    assert (removed - late)[
        batch["attention_mask"].bool() & ~keep[0]
    ].abs().max() > 1e-2  # removed without the feed-forward part


@each_padding
def test_gates_of_zero_and_one_equal_removal(
    encoder: nn.Module,
    family: str,
    attention: str,
    lengths: tuple[int, ...],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder, lengths)
    keep = nested_keep(batch["attention_mask"])
    for prune_at in adapters()[family].prune_points:
        removed = removed_states(encoder, batch, fixed_gate(keep), prune_at)
        soft = removed_states(encoder, batch, fixed_gate(keep, soft=True), prune_at)
        # dropped tokens as well: they keep the state that they had
        assert (removed - soft)[batch["attention_mask"].bool()].abs().max() < TOLERANCE


@each_padding
def test_keeping_all_real_tokens_equals_the_dense_model(
    encoder: nn.Module,
    attention: str,
    lengths: tuple[int, ...],
    make_batch: Callable[..., Any],
    fixed_gate: Callable[..., Any],
    rounding: float,
) -> None:
    batch = make_batch(encoder, lengths)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        dense = encoder(**batch).last_hidden_state
    for soft in (False, True):
        kept = removed_states(encoder, batch, fixed_gate({0: real, 2: real}, soft=soft))
        assert (kept - dense)[real].abs().max() < max(2e-6, rounding)


def test_equal_counts_without_padding_need_no_mask(
    encoder: nn.Module,
    attention: str,
    make_batch: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    """Every sample keeps the same number of tokens at different positions: the fast path without a mask."""
    batch = make_batch(encoder, FULL)
    first, second = torch.zeros(3, 23, dtype=torch.bool), torch.zeros(3, 23, dtype=torch.bool)
    for row in range(3):
        first[row, row::2][:10] = True
        second[row, row::2][:9:2] = True
    removed = removed_states(encoder, batch, fixed_gate({0: first, 2: second}))
    masked = masked_states(encoder, batch, {0: first, 2: second})
    assert (removed - masked)[second].abs().max() < TOLERANCE


def test_difference_in_double_precision_is_rounding(
    encoder: nn.Module,
    family: str,
    attention: str,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    encoder = encoder.double()
    in_float32 = (family, attention) == ("modernbert", "eager")  # its softmax is always float32
    removed = removed_states(encoder, batch, fixed_gate(keep))
    soft = removed_states(encoder, batch, fixed_gate(keep, soft=True))
    assert removed.dtype == torch.float64
    assert (removed - soft)[keep[2]].abs().max() < (1e-6 if in_float32 else 1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_removal_runs_under_bfloat16_autocast(
    encoder: nn.Module,
    attention: str,
    soft: bool,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    exact = removed_states(encoder, batch, fixed_gate(keep, soft=soft))
    with torch.autocast("cpu", torch.bfloat16):
        rough = removed_states(encoder, batch, fixed_gate(keep, soft=soft))
    assert (exact - rough)[keep[2]].abs().max() < 0.3 and torch.isfinite(rough).all()
