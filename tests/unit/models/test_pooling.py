"""Tests of pooling: each vector against its definition, for removed, soft and unused tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from retention.core.duals import ExactDual
from retention.errors import ConfigError
from retention.models.encoded import Encoded
from retention.models.pooling import POOLINGS, pool, weighted_mean
from retention.models.retention_model import RetentionModel
from retention.policies import Adaptive, Dense, Truncate
from retention.tasks.classification.head import ClassificationHead

MakeModel = Callable[..., RetentionModel]


@pytest.fixture
def truncated() -> Truncate:
    """Policy that keeps 6 and 4 of 10 tokens, 3 and 2 of 5."""
    return Truncate(rho=0.5, schedule=[0.6, 0.4], layers=[0, 1])


@pytest.mark.parametrize("dropped", ["cut", "forward"])
def test_survivors_are_tokens_that_passed_every_gate(
    dropped: str, make_model: MakeModel, make_batch: Any, truncated: Truncate
) -> None:
    model, batch = make_model(truncated, dropped=dropped).eval(), make_batch(10, 5)
    encoded = model.encode(batch)
    states = torch.zeros(2, 10, 16).scatter(
        1, encoded.positions.unsqueeze(-1).expand(-1, -1, 16), encoded.hidden_states * (encoded.weights > 0)[..., None]
    )
    expected = torch.stack([states[0, [0, 1, 2, 9]].mean(0), states[1, [0, 4]].mean(0)])
    torch.testing.assert_close(pool(encoded, "survivors"), expected)


def test_survivors_are_same_with_either_form_of_dropped(
    make_model: MakeModel, make_batch: Any, truncated: Truncate
) -> None:
    batch, pooled = make_batch(10, 5), {}
    for dropped in ("cut", "forward"):
        encoded = make_model(truncated, dropped=dropped).eval().encode(batch)
        pooled[dropped] = {pooling: pool(encoded, pooling) for pooling in ("survivors", "mean")}
    torch.testing.assert_close(pooled["cut"]["survivors"], pooled["forward"]["survivors"])
    assert not torch.allclose(pooled["cut"]["mean"], pooled["forward"]["mean"])  # removed tokens take part in one


def test_dense_means_are_equal_and_differ_from_cls(make_model: MakeModel, make_batch: Any) -> None:
    encoded = make_model(Dense(), dropped="forward").eval().encode(make_batch(7, 4))
    expected = torch.stack([encoded.hidden_states[0].mean(0), encoded.hidden_states[1, :4].mean(0)])
    for pooling in ("mean", "depth", "survivors"):
        torch.testing.assert_close(pool(encoded, pooling), expected)
    assert not torch.allclose(pool(encoded, "cls"), expected)


def test_survivors_are_weighted_by_soft_gates(make_model: MakeModel, make_batch: Any) -> None:
    policy = Adaptive(dual=ExactDual(), rho=0.5, slope=0.5)
    model, batch = make_model(policy, dropped="forward").train(), make_batch(8, 6)
    policy.phase, policy.anneal = "soft", 1.0
    encoded = model.encode(batch)
    weights = encoded.state.weights  # nothing is removed, so it is in order
    assert float(weights[batch["attention_mask"] == 1].detach().min()) < 0.9
    expected = (weights.unsqueeze(-1) * encoded.hidden_states).sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(pool(encoded, "survivors"), expected)
    assert not torch.allclose(pool(encoded, "mean"), expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_classification_head_pools_the_same_way(
    pooling: str, make_model: MakeModel, make_batch: Any, truncated: Truncate
) -> None:
    model = make_model(truncated, ClassificationHead, pooling=pooling, dropped="forward").eval()
    encoded = model.encode(make_batch(10, 5))
    torch.testing.assert_close(model.head.pooled(encoded), pool(encoded, pooling), rtol=0, atol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_has_no_influence(pooling: str) -> None:
    states = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[1.0, 0.5, 0.0]])
    before = pool(Encoded(states, weights, torch.arange(3).expand(1, 3)), pooling)
    changed = states.clone()
    changed[0, 2] = 1e6
    torch.testing.assert_close(pool(Encoded(changed, weights, torch.arange(3).expand(1, 3)), pooling), before)
    changed[0, 0] = 1e6
    assert not torch.allclose(pool(Encoded(changed, weights, torch.arange(3).expand(1, 3)), pooling), before)


def test_unknown_pooling_is_refused() -> None:
    encoded = Encoded(torch.zeros(1, 2, 4), torch.ones(1, 2), torch.arange(2).expand(1, 2))
    with pytest.raises(ConfigError, match="pooling"):
        pool(encoded, "max")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights_dtype", [torch.float32, None], ids=["float_weights", "same_weights"])
def test_mean_of_many_half_precision_states_does_not_overflow(
    dtype: torch.dtype, weights_dtype: torch.dtype | None
) -> None:
    states = torch.full((1, 4096, 3), 20.0, dtype=dtype)
    mean = weighted_mean(states, torch.ones(1, 4096, dtype=weights_dtype or dtype))
    assert mean.dtype == (weights_dtype or dtype) and mean.tolist() == [[20.0] * 3]


def test_mean_of_float_states_is_computed_in_float() -> None:
    generator = torch.Generator().manual_seed(0)
    states, weights = torch.randn(3, 50, 7, generator=generator), torch.rand(3, 50, generator=generator)
    column = weights.unsqueeze(-1)
    assert torch.equal(weighted_mean(states, weights), (column * states).sum(1) / column.sum(1))
