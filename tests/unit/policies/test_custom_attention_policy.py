"""Test that a policy on attention per head is one class of a few lines, without changes to the engine."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from retention.engine import Retainer
from retention.policies import AttentionTopK, RetentionPolicy, retain


class MaxHead(RetentionPolicy):
    """Keep the tokens with the highest received attention in any head."""

    observes: ClassVar[tuple[str, ...]] = ("attention",)

    def reduce_attention(self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None = None) -> Tensor:
        return torch.einsum("bhqk,bq->bhk", probabilities, query_weights)

    def score(self, view: Any) -> Tensor:
        return view.attention_statistics.amax(1)


LENGTHS = (30, 21)


@pytest.fixture
def encoder() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.3, attn_implementation="eager",
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 60, (2, 30), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (torch.arange(30) < torch.tensor(LENGTHS).unsqueeze(1)).long()}


@torch.no_grad()
def run(encoder: BertModel, batch: dict[str, Tensor], policy: RetentionPolicy) -> Retainer:
    with retain(encoder, policy.eval()) as retainer:
        encoder(**batch)
    return retainer


def test_kept_counts_are_the_budget(encoder: BertModel, batch: dict[str, Tensor]) -> None:
    policy = MaxHead(rho=0.4, slope=0.5)
    report = run(encoder, batch, policy).report
    for gate, layer in enumerate(policy.layers):
        assert torch.equal(report.kept[layer], policy.budget.counts(torch.tensor(LENGTHS))[gate])


def test_first_ranking_is_the_maximum_over_heads_of_the_models_own_maps(
    encoder: BertModel, batch: dict[str, Tensor]
) -> None:
    kept = run(encoder, batch, MaxHead(rho=0.4, schedule="flat")).report.keep_indices[0]
    with torch.no_grad():
        probabilities = encoder(**batch, output_attentions=True).attentions[0]
    received = (probabilities * batch["attention_mask"][:, None, :, None]).sum(2).amax(1)
    for row, count in enumerate((12, 8)):
        assert set(kept[row, :count].tolist()) == set(received[row].topk(count).indices.tolist())


def test_ranking_differs_from_attention_topk(encoder: BertModel, batch: dict[str, Tensor]) -> None:
    by_max, by_mean = (run(encoder, batch, kind(rho=0.4, schedule="flat")) for kind in (MaxHead, AttentionTopK))
    assert not torch.equal(by_max.report.keep_indices[0], by_mean.report.keep_indices[0])


def test_statistics_of_the_previous_layer_follow_the_kept_tokens(encoder: BertModel, batch: dict[str, Tensor]) -> None:
    class Accumulating(MaxHead):
        """Rank by the sum over layers per head."""

        def reduce_attention(
            self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None = None
        ) -> Tensor:
            received = super().reduce_attention(probabilities, query_weights)
            assert previous is None or previous.shape == received.shape
            return received if previous is None else received + previous

    statistics = run(encoder, batch, Accumulating(rho=0.4, slope=0.5)).state.attention_statistics
    assert statistics is not None and statistics.shape[:2] == (2, 4)
    assert statistics.sum(1).max() > 2.5  # more than the attention of one layer, which is 1 on average over tokens


def test_statistics_of_the_wrong_shape_are_refused(encoder: BertModel, batch: dict[str, Tensor]) -> None:
    class TokensFirst(MaxHead):
        """Return [B, N, H] by mistake."""

        def reduce_attention(
            self, probabilities: Tensor, query_weights: Tensor, previous: Tensor | None = None
        ) -> Tensor:
            return super().reduce_attention(probabilities, query_weights).transpose(1, 2)

    with pytest.raises(ValueError, match=r"reduce_attention must return a tensor \[B, \.\.\., N\]"):
        run(encoder, batch, TokensFirst(rho=0.4))
