"""Test the reduction of attention maps to received attention."""

from __future__ import annotations

import torch

from retention.core.attention import received_attention


def test_received_attention_is_the_mean_over_heads_of_the_weighted_sum_over_queries() -> None:
    torch.manual_seed(0)
    probabilities = torch.randn(2, 3, 5, 5).softmax(-1)
    weights = torch.rand(2, 5)
    expected = (probabilities * weights[:, None, :, None]).sum(2).mean(1)
    torch.testing.assert_close(received_attention(probabilities, weights), expected)


def test_received_attention_is_one_on_average_over_real_tokens() -> None:
    probabilities = torch.randn(1, 2, 6, 6).masked_fill(torch.arange(6) > 3, -torch.inf).softmax(-1)
    received = received_attention(probabilities, (torch.arange(6) <= 3).float().unsqueeze(0))
    torch.testing.assert_close(received[:, :4].mean(), torch.tensor(1.0))
    assert (received[:, 4:] == 0).all()


def test_received_attention_is_float32_for_half_precision_maps() -> None:
    probabilities = torch.ones(1, 2, 3, 3, dtype=torch.bfloat16) / 3
    assert received_attention(probabilities, torch.ones(1, 3)).dtype == torch.float32
