"""Test the hooks of a retainer: which layers call the gate, what it sees, and gates that close in every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.engine import Decision, ForwardReport, LayerView, Retainer
from retention.errors import ConfigError

IDS = torch.arange(40).reshape(2, 20)


class RecordingGate:
    """Gate that records its inputs and keeps everything by default."""

    def __init__(self, decision: Callable[[LayerView], Decision | None] = lambda view: None) -> None:
        self.decision = decision
        self.reports: list[ForwardReport] = []
        self.views: list[LayerView] = []

    def begin(self, report: ForwardReport) -> None:
        self.reports.append(report)

    def decide(self, view: LayerView) -> Decision | None:
        self.views.append(view)
        return self.decision(view)


def test_gate_is_called_after_the_gated_layers_in_order(tiny: Callable[..., Any]) -> None:
    gate, encoder = RecordingGate(), tiny("bert")
    with torch.no_grad(), Retainer(encoder, gate, layers=[2, 0, 2]) as retainer:
        encoder(input_ids=IDS)
    assert retainer.layers == (0, 2) and [view.layer_idx for view in gate.views] == [0, 2]
    assert gate.reports == [retainer.report]


def test_gate_gets_states_positions_and_input_ids(tiny: Callable[..., Any]) -> None:
    def every_other(view: LayerView) -> Decision:
        return Decision(keep_mask=view.positions % 2 == 0)

    gate, encoder = RecordingGate(every_other), tiny("bert")
    mask = torch.ones_like(IDS)
    mask[1, 11:] = 0
    with torch.no_grad(), Retainer(encoder, gate, layers=[0, 1], protected_ids=[20]):
        encoder(input_ids=IDS, attention_mask=mask)
    first, second = gate.views
    assert first.hidden_states.shape == (2, 20, 32) and second.hidden_states.shape == (2, 10, 32)
    assert second.positions[0].tolist() == list(range(0, 20, 2))
    assert second.valid.sum(1).tolist() == [10, 6] and second.lengths.tolist() == [20, 11]
    assert first.protected.nonzero().tolist() == [[1, 0]] and second.protected.nonzero().tolist() == [[1, 0]]
    assert second.input_ids is IDS


def test_first_text_of_each_pair_is_protected(tiny: Callable[..., Any]) -> None:
    pad, start, end = 0, 1, 2
    ids = torch.tensor(
        [
            [start, 5, 6, end, 7, 8, end, pad],
            [pad, pad, start, 5, end, 7, 8, end],
            [start, 5, 6, 7, 8, end, pad, pad],  # a single text
            [5, 6, end, 7, 8, 9, end, pad],  # a tokenizer without a start token
        ]
    )
    gate, encoder = RecordingGate(), tiny("bert")
    context = Retainer(encoder, gate, layers=[0], protected_ids=[start, end], protect_query=True)
    with torch.no_grad(), context:
        encoder(input_ids=ids, attention_mask=(ids != pad).long())
    [view] = gate.views
    protected = [[column for column in range(8) if view.protected[row, column]] for row in range(4)]
    assert protected == [[0, 1, 2, 3, 6], [2, 3, 4, 7], [0, 1, 2, 3, 4, 5], [0, 1, 2, 6]]


@pytest.mark.parametrize(
    ("protect_query", "message"), [(True, "needs protected_ids"), ("yes", "must be True or False")]
)
def test_wrong_protection_of_the_query_is_refused(tiny: Callable[..., Any], protect_query: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"protect_query: {message}"):
        Retainer(tiny("bert"), RecordingGate(), layers=[0], protect_query=protect_query)


def test_input_without_a_batch_is_refused_with_the_remedy(tiny: Callable[..., Any]) -> None:
    encoder = tiny("bert")
    with torch.no_grad(), Retainer(encoder, RecordingGate(), layers=[0]):
        with pytest.raises(
            ValueError, match=r"input_ids must be \[B, T\], got shape \[20\]; .*input_ids.unsqueeze\(0\)"
        ):
            encoder(input_ids=IDS[0])
        with pytest.raises(ValueError, match=r"inputs_embeds must be \[B, T, D\], got shape \[20, 32\]"):
            encoder(inputs_embeds=torch.zeros(20, 32))


def test_nested_protection_and_spans_end_with_those_of_the_outer_block(tiny: Callable[..., Any]) -> None:
    gate, encoder = RecordingGate(), tiny("bert")
    masks, spans = [IDS == 3, IDS == 4], [torch.zeros_like(IDS), torch.ones_like(IDS)]
    with torch.no_grad(), Retainer(encoder, gate, layers=[0]) as retainer:
        with retainer.protect(masks[0]), retainer.prune_together(spans[0]):
            with retainer.protect(masks[1]), retainer.prune_together(spans[1]):
                encoder(input_ids=IDS)
            encoder(input_ids=IDS)
        encoder(input_ids=IDS)
    inner, outer, outside = gate.views
    assert torch.equal(inner.protected, masks[1]) and torch.equal(outer.protected, masks[0])
    assert torch.equal(inner.spans, spans[1]) and torch.equal(outer.spans, spans[0])
    assert not outside.protected.any() and outside.spans is None


def test_gates_closed_in_every_layer_give_finite_states_and_gradients(tiny: Callable[..., Any]) -> None:
    def close(view: LayerView) -> Decision:
        return Decision(log_gates=torch.full(view.valid.shape, torch.finfo(torch.float32).min / 4))

    for family, depth in (("bert", "num_hidden_layers"), ("distilbert", "n_layers")):
        encoder = tiny(family, **{depth: 8})
        with Retainer(encoder, RecordingGate(close), layers=range(8)):
            states = encoder(input_ids=IDS).last_hidden_state
        states.sum().backward()
        assert torch.isfinite(states).all()
        gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
