"""Test token merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from retention.core.flops import EncoderShape
from retention.engine import Retainer
from retention.policies import ToMe, tome


def test_merging_conserves_sizes_and_the_sum_of_states(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = build_policy(ToMe(rho=0.2, schedule="flat")).eval(), make_view((20, 13))
    decision = decide(policy, view)
    keep, sizes = decision.keep_mask, decision.log_gates.exp()
    assert keep.sum(1).tolist() == [4, 2]
    torch.testing.assert_close((sizes * keep).sum(1), torch.tensor([20.0, 13.0]))
    weighted = (decision.hidden_states * (sizes * keep).unsqueeze(-1)).sum(1)
    torch.testing.assert_close(weighted, (view.hidden_states * view.valid.unsqueeze(-1)).sum(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(decision.hidden_states[:, 0], view.hidden_states[:, 0]) and (sizes[:, 0] == 1).all()


def test_most_similar_tokens_merge(build_policy: Any, make_view: Any, decide: Any) -> None:
    states = torch.eye(6, 16).unsqueeze(0)
    states[0, 4] = 2 * states[0, 1]
    view = make_view((6,), hidden_states=states)
    decision = decide(build_policy(ToMe(rho=5 / 6, schedule="flat")).eval(), view)
    assert decision.keep_mask[0].sum() == 5 and not decision.keep_mask[0, [1, 4]].all()
    survivor = 1 if decision.keep_mask[0, 1] else 4
    torch.testing.assert_close(decision.hidden_states[0, survivor], 1.5 * states[0, 1])


def test_only_protected_tokens_are_kept_if_they_fill_the_budget(build_policy: Any, make_view: Any, decide: Any) -> None:
    keep = decide(build_policy(ToMe(rho=0.05, schedule="flat")).eval(), make_view((20, 13))).keep_mask
    assert keep.sum(1).tolist() == [1, 1] and keep[:, 0].all()


@torch.no_grad()
def test_merging_equal_tokens_does_not_change_other_tokens() -> None:
    """Proportional attention: one token of size two acts on the others exactly like two equal tokens."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
    encoder = BertModel(config, add_pooling_layer=False).eval()
    encoder.embeddings.position_embeddings.weight.zero_()  # equal ids have equal states in every layer
    ids = torch.tensor([[1, 7, 7, 8, 8, 9, 9]])
    policy = ToMe(rho=4 / 7, schedule="flat")
    policy.build(EncoderShape(num_layers=4, hidden_size=32, intermediate_size=64))
    dense = encoder(input_ids=ids).last_hidden_state
    with Retainer(encoder, policy.eval(), layers=policy.layers, dropped="cut", protected_ids=[1]) as retainer:
        merged = encoder(input_ids=ids).last_hidden_state
    positions = retainer.state.positions
    assert positions.shape == (1, 4)
    assert (merged - dense.gather(1, positions.unsqueeze(-1).expand_as(merged))).abs().max() < 5e-6


@pytest.mark.parametrize("unmerge", [True, False])
@torch.no_grad()
def test_merged_tokens_return_with_the_final_state_of_their_target(unmerge: bool) -> None:
    """Equal tokens merge, so unmerging gives the dense states; without it merged tokens miss the later layers."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
    encoder = BertModel(config, add_pooling_layer=False).eval()
    encoder.embeddings.position_embeddings.weight.zero_()  # equal ids have equal states in every layer
    ids = torch.tensor([[1, 7, 7, 8, 8, 9, 9], [1, 5, 5, 5, 5, 0, 0]])
    mask = (ids > 0).long()
    policy = ToMe(rho=4 / 7, schedule=[4 / 7, 4 / 7, 3 / 7], unmerge=unmerge)
    policy.build(EncoderShape(num_layers=4, hidden_size=32, intermediate_size=64))
    dense = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    with Retainer(encoder, policy.eval(), layers=policy.layers, protected_ids=[1]) as retainer:
        merged = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert retainer.report.kept[0].tolist() == [4, 2] and retainer.report.kept[2].tolist() == [3, 2]
    second, third = merged[1, 1:5], merged[0]
    assert (second - dense[1, 1:5]).abs().max() < 5e-6 or not unmerge  # all four were merged into one, in two rounds
    assert ((second - second[:1]).abs().max() < 1e-6) == unmerge
    assert sum(torch.equal(third[1], third[k]) for k in range(2, 7)) >= int(unmerge)  # one pair at least
    # every token of the first sequence has the state of one of the three kept ones after unmerging, of seven without
    assert len(torch.unique(third, dim=0)) == (3 if unmerge else 7)


def test_targets_of_merged_tokens_follow_repeated_matchings(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy, view = build_policy(ToMe(rho=0.2, schedule="flat")).eval(), make_view((20, 13))
    decision = decide(policy, view)
    targets = decision.merged_into
    assert decision.keep_mask.gather(1, targets)[view.valid].all()  # each real token ends in a kept one
    columns = torch.arange(20).expand_as(targets)
    assert torch.equal((targets == columns)[view.valid], decision.keep_mask[view.valid])
    sizes = torch.zeros(2, 20).scatter_add(1, targets, view.valid.float())
    torch.testing.assert_close(sizes[decision.keep_mask], decision.log_gates.exp()[decision.keep_mask])


@pytest.mark.parametrize("digits", [4, None])
def test_rounding_of_states_does_not_change_which_repeated_words_merge(
    digits: int | None, build_policy: Any, make_view: Any, decide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of another order change states by about 1e-7; without a tolerance (None) other tokens would go."""
    monkeypatch.setattr(tome, "_EQUAL", 1e-30 if digits is None else 10.0**-digits)
    words = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    states = words[torch.arange(40) % 5].unsqueeze(0)
    policy = build_policy(ToMe(rho=0.6, schedule="flat")).eval()
    keeps = []
    for seed in range(8):
        noise = 1e-7 * torch.randn(states.shape, generator=torch.Generator().manual_seed(seed))
        keeps.append(decide(policy, make_view((40,), hidden_states=states + noise)).keep_mask)
    assert all(torch.equal(keep, keeps[0]) for keep in keeps) == (digits is not None)
