"""Test input truncation: it keeps a part of the text, and equals a shorter input where positions agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.core.flops import encoder_flops
from retention.errors import ConfigError
from retention.policies import InputTruncation


def kept_tokens(policy: Any, view: Any, decide: Any) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in decide(policy, view).keep_mask]


def test_head_keeps_the_first_tokens(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(InputTruncation(rho=0.3)).eval()
    assert policy.layers == (-1,)
    view = make_view((20, 13, 2), layer_idx=-1)
    view.protected[0, 19] = True
    assert kept_tokens(policy, view, decide) == [[0, 1, 2, 3, 4, 19], [0, 1, 2], [0]]


@pytest.mark.parametrize(("head_share", "head", "tail"), [(0.25, 2, 6), (0.5, 4, 4), (0.75, 6, 2)])
def test_head_tail_keeps_both_ends(
    head_share: float, head: int, tail: int, build_policy: Any, make_view: Any, decide: Any
) -> None:
    policy = build_policy(InputTruncation(rho=0.45, part="head_tail", head_share=head_share)).eval()
    view = make_view((20,), layer_idx=-1)  # the first token is protected: 9 tokens, 8 of 19 are free to choose
    expected = [0, *range(1, 1 + head), *range(20 - tail, 20)]
    assert kept_tokens(policy, view, decide) == [expected]


def test_padding_does_not_shift_the_tail(build_policy: Any, make_view: Any, decide: Any) -> None:
    policy = build_policy(InputTruncation(rho=0.5, part="head_tail", head_share=0.5)).eval()
    (alone,) = kept_tokens(policy, make_view((13,), layer_idx=-1), decide)
    _, padded = kept_tokens(policy, make_view((20, 13), layer_idx=-1), decide)
    assert padded == alone == [0, 1, 2, 3, 11, 12]


@pytest.mark.parametrize("dropped", ["forward", "cut"])
@pytest.mark.parametrize("pooling", ["cls", "depth"])
def test_result_is_that_of_a_shorter_input(
    pooling: str, dropped: str, make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = make_model(InputTruncation(rho=0.5), pooling=pooling, dropped=dropped).eval()
    batch = make_batch(12, 12)
    batch["protected_mask"][:, -1] = False  # the tail is removed as well, so that positions are those of a prefix
    short = {name: value[:, :6] if value.dim() == 2 else value for name, value in batch.items()}
    with torch.no_grad():
        truncated = model(batch)
        dense, spent = model.flops()
        with model.policy.at_budget(1.0):
            expected, complete = model(short), model(batch)
    torch.testing.assert_close(truncated, expected, atol=1e-6, rtol=1e-5)
    assert (truncated - complete).abs().max() > 1e-4
    lengths = torch.tensor([12, 12])
    assert dense == encoder_flops(model.shape, lengths, {}).sum()
    assert spent == encoder_flops(model.shape, torch.tensor([6, 6]), {}).sum()


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="part: must be one of head, head_tail, got 'tail'"):
        InputTruncation(rho=0.5, part="tail")
    with pytest.raises(ConfigError, match="head_share: must be in"):
        InputTruncation(rho=0.5, part="head_tail", head_share=1.0)
