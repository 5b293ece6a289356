"""Test layer-wise token compression."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from retention.core.flops import EncoderShape
from retention.engine import Retainer
from retention.policies import LTC
from retention.policies.ltc import pooling_windows

SHAPE = EncoderShape(num_layers=4, hidden_size=16, intermediate_size=32)


@pytest.mark.parametrize(("depth", "layer"), [(12, 5), (6, 2), (4, 1), (2, 0), (1, 0)])
def test_tokens_are_pooled_after_half_of_the_layers(depth: int, layer: int) -> None:
    policy = LTC(rho=0.4)
    policy.build(EncoderShape(num_layers=depth, hidden_size=16, intermediate_size=32))
    assert policy.layers == (layer,)


def test_windows_cover_all_free_tokens_with_lengths_that_differ_by_one() -> None:
    free = torch.ones(3, 14, dtype=torch.bool)
    free[:, 0] = free[1, 5] = False
    free[2, 9:] = False
    targets, starts = pooling_windows(free, torch.tensor([4, 4, 3]))
    assert starts.sum(1).tolist() == [4, 4, 3]
    for row in range(3):
        sizes = torch.bincount(targets[row][free[row]], minlength=14)
        assert sizes[starts[row]].sum() == free[row].sum() and sizes[~starts[row]].sum() == 0
        assert sizes[starts[row]].max() - sizes[starts[row]].min() <= 1
        assert (targets[row][free[row]].diff() >= 0).all()
    columns = torch.arange(14).expand(3, 14)
    assert torch.equal(targets[~free], columns[~free])


def test_no_room_drops_all_free_tokens_and_too_much_keeps_them() -> None:
    free = torch.ones(2, 5, dtype=torch.bool)
    targets, starts = pooling_windows(free, torch.tensor([-1, 9]))
    assert starts.sum(1).tolist() == [0, 5] and torch.equal(targets, torch.arange(5).expand(2, 5))


def test_windows_are_averaged_like_adaptive_pooling(build_policy: Any, make_view: Any, decide: Any) -> None:
    """Where the number of tokens is a multiple of that of the windows, adaptive average pooling does the same."""
    policy, view = build_policy(LTC(rho=7 / 19)).eval(), make_view((19, 19), layer_idx=1)
    decision = decide(policy, view)
    assert decision.keep_mask.sum(1).tolist() == [7, 7] and decision.keep_mask[:, 0].all()  # the first is protected
    pooled = F.adaptive_avg_pool1d(view.hidden_states[:, 1:].transpose(1, 2), 6).transpose(1, 2)
    for row in range(2):
        kept = decision.hidden_states[row][decision.keep_mask[row]]
        torch.testing.assert_close(kept[1:], pooled[row])
        assert torch.equal(kept[0], view.hidden_states[row, 0])
    assert decision.log_gates is None


@torch.no_grad()
def test_tokens_of_a_window_return_with_its_final_state() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    encoder = BertModel(BertConfig(vocab_size=60, **sizes), add_pooling_layer=False).eval()
    policy = LTC(rho=0.4)
    policy.build(EncoderShape(num_layers=4, hidden_size=32, intermediate_size=64))
    ids = torch.randint(5, 60, (2, 16))
    ids[:, 0] = 1
    with Retainer(encoder, policy.eval(), layers=policy.layers, protected_ids=[1]) as retainer:
        states = encoder(input_ids=ids).last_hidden_state
    assert retainer.report.kept[1].tolist() == [6, 6] and states.shape == (2, 16, 32)
    assert len(torch.unique(states[0], dim=0)) == 6  # five windows of three tokens, and the protected token
    assert all(torch.equal(states[0, start], states[0, start + 2]) for start in range(1, 16, 3))
