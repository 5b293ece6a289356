"""Test what happens to removed tokens: restored with their last state, or cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retention.engine import Retainer


class StateRecorder:
    """Forward hook that stores the output states of a layer."""

    def __init__(self) -> None:
        self.states = torch.empty(0)

    def __call__(self, layer: nn.Module, args: Any, output: Any) -> None:
        self.states = output[0] if isinstance(output, tuple) else output


def test_forward_restores_the_length_and_last_states(
    encoder: nn.Module,
    attention: str,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
    layers_of: Callable[..., Any],
    masked_states: Callable[..., Tensor],
    rounding: float,
) -> None:
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    layers = layers_of(encoder)
    after_first, after_third, last = StateRecorder(), StateRecorder(), StateRecorder()
    # output of the layers at full length with the removed tokens masked as keys
    handles = [layers[0].register_forward_hook(after_first), layers[2].register_forward_hook(after_third)]
    masked_states(encoder, batch, keep)
    for handle in handles:
        handle.remove()
    with torch.no_grad(), Retainer(encoder, fixed_gate(keep), layers=[0, 2]):
        layers[-1].register_forward_hook(last)  # runs after the hooks of the engine
        encoder(**batch)
    assert last.states.shape[:2] == keep[0].shape
    first, third = (record.states[:, : last.states.shape[1]] for record in (after_first, after_third))
    assert (last.states - first)[~keep[0]].abs().max() <= rounding
    second_removal = keep[0] & ~keep[2]
    assert (last.states - third)[second_removal].abs().max() < 5e-6


def test_cut_returns_kept_tokens_only(
    encoder: nn.Module,
    attention: str,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
) -> None:
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    outputs = {}
    for dropped in ("forward", "cut"):
        with torch.no_grad(), Retainer(encoder, fixed_gate(keep), layers=[0, 2], dropped=dropped) as retainer:
            outputs[dropped] = encoder(**batch).last_hidden_state
    counts = keep[2].sum(1)
    assert outputs["forward"].shape[1] == 23 and outputs["cut"].shape[1] == counts.max()
    assert torch.equal(retainer.report.kept[2], counts)
    assert torch.equal(retainer.state.valid.sum(1), counts)
    for row, count in enumerate(counts.tolist()):
        assert torch.equal(outputs["cut"][row, :count], outputs["forward"][row][keep[2][row]])
        assert retainer.report.keep_indices[2][row, :count].tolist() == keep[2][row].nonzero().flatten().tolist()
        assert (retainer.report.keep_indices[2][row, count:] == -1).all()


def test_gate_after_the_last_layer_removes_from_the_output_only(
    encoder: nn.Module,
    family: str,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
    rounding: float,
) -> None:
    """The encoder's computation is unchanged, and ``cut`` shortens its output."""
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])[0]
    with torch.no_grad():
        dense = encoder(**batch).last_hidden_state
        with Retainer(encoder, fixed_gate({3: keep}), layers=[3]):
            assert (encoder(**batch).last_hidden_state - dense).abs().max() <= rounding
        with Retainer(encoder, fixed_gate({3: keep}), layers=[3], dropped="cut"):
            cut = encoder(**batch).last_hidden_state
    torch.testing.assert_close(cut[0, : int(keep[0].sum())], dense[0][keep[0]])


def test_gradients_flow_through_kept_and_dropped_states(
    encoder: nn.Module,
    family: str,
    make_batch: Callable[..., Any],
    nested_keep: Callable[..., Any],
    fixed_gate: Callable[..., Any],
    layers_of: Callable[..., Any],
) -> None:
    batch = make_batch(encoder)
    keep = nested_keep(batch["attention_mask"])
    with Retainer(encoder, fixed_gate(keep), layers=[0, 2]):
        states = encoder(**batch).last_hidden_state
    encoder.zero_grad()
    states[~keep[0] & batch["attention_mask"].bool()].square().sum().backward(retain_graph=True)
    first, last = (
        sum(float(p.grad.abs().sum()) for p in layer.parameters() if p.grad is not None)
        for layer in (layers_of(encoder)[0], layers_of(encoder)[-1])
    )
    assert first > 0 and last == 0  # dropped after layer 0, so later layers did not process them
    states[keep[2]].square().sum().backward()
    trained = layers_of(encoder)[-1].named_parameters()  # no global tokens in this batch
    assert all(parameter.grad is not None for name, parameter in trained if "_global" not in name)
