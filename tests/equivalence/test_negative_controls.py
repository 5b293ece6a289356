"""Test that the equivalence tests can fail: new positions and a single wrong token are detected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Retainer, adapters

DETECTED = 1e-4  # twenty times the tolerance of the equivalence tests


def reindex_rotary(encoder: Any, kwargs: dict[str, Any], args: tuple[Any, ...], layer: Any) -> tuple[Any, Any]:
    positions = torch.arange(args[0].shape[1]).unsqueeze(0)
    tables = encoder.rotary_emb(args[0], positions, layer.attention_type)
    return args, {**kwargs, "position_embeddings": tables}


def reindex_bias(encoder: Any, kwargs: dict[str, Any], args: tuple[Any, ...], layer: Any) -> tuple[Any, Any]:
    return (*args[:2], encoder.encoder.compute_position_bias(args[0]), *args[3:]), kwargs


def reindex_distances(encoder: Any, kwargs: dict[str, Any], args: tuple[Any, ...], layer: Any) -> tuple[Any, Any]:
    return args, {**kwargs, "relative_pos": encoder.encoder.get_rel_pos(args[0])}


def reindex_first_bias(encoder: Any, kwargs: dict[str, Any], args: tuple[Any, ...], layer: Any) -> tuple[Any, Any]:
    length = args[0].shape[1]
    bias = None if args[2] is None else encoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    return (*args[:2], bias, *args[3:]), kwargs


REINDEX = {
    "deberta-v2": reindex_distances,
    "modernbert": reindex_rotary,
    "mpnet": reindex_bias,
    "t5": reindex_first_bias,
}


@pytest.mark.parametrize("relative", sorted(REINDEX))
def test_new_positions_are_detected(
    relative: str,
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    layers_of: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    encoder = build(relative)
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])

    def wrong(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return REINDEX[relative](encoder, kwargs, args, layer)

    masked = masked_states(build(relative), batch, keep)
    for prune_at in adapters()[relative].prune_points:
        with torch.no_grad(), Retainer(encoder, fixed_gate(keep), layers=[0, 2], prune_at=prune_at):
            # after the engine's own hooks
            hooks = [layer.register_forward_pre_hook(wrong, with_kwargs=True) for layer in layers_of(encoder)]
            removed = encoder(**batch).last_hidden_state
        for hook in hooks:
            hook.remove()
        assert (removed - masked)[keep[2]].abs().max() > DETECTED


def test_one_wrong_token_is_detected(
    encoder: nn.Module,
    family: str,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    wrong = {layer_idx: mask.clone() for layer_idx, mask in keep.items()}
    position = int(keep[2][0].nonzero()[1])
    for mask in wrong.values():
        mask[0, position] = False
    masked = masked_states(encoder, batch, keep)
    for prune_at in adapters()[family].prune_points:
        with torch.no_grad(), Retainer(encoder, fixed_gate(wrong), layers=[0, 2], prune_at=prune_at):
            removed = encoder(**batch).last_hidden_state
        difference = (removed - masked).abs().amax(2)
        assert difference[0][wrong[2][0]].max() > DETECTED
        assert difference[1:][keep[2][1:]].max() < 5e-6  # the other samples are unchanged


def test_local_window_in_new_positions_is_detected(
    build: Callable[..., nn.Module],
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    fixed_gate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A local window measured between the kept tokens instead of the original ones."""
    from retention.engine.state import ForwardState

    encoder = build("modernbert")
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    original = ForwardState._build_mask

    def wrong(state: ForwardState, dtype: torch.dtype, boolean: bool, window: int | None) -> Tensor | None:
        positions = state.positions
        state.positions = torch.arange(positions.shape[1]).expand_as(positions)
        mask = original(state, dtype, boolean, window)
        state.positions = positions
        return mask

    monkeypatch.setattr(ForwardState, "_build_mask", wrong)
    with torch.no_grad(), Retainer(encoder, fixed_gate(keep), layers=[0, 2]):
        removed = encoder(**batch).last_hidden_state
    assert (removed - masked_states(encoder, batch, keep))[keep[2]].abs().max() > DETECTED
