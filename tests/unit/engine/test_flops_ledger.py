"""The FLOPs ledger against torch's own count of matrix products, dense and with tokens removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from retention.core.dual import ExactDual
from retention.core.flops import encoder_flops, scorer_flops
from retention.engine import Retainer, adapter_for
from retention.policies import Adaptive, RetentionPolicy, Truncate

FAMILIES = ["bert", "distilbert", "modernbert"]
IDS = torch.arange(2 * 48).reshape(2, 48) % 60  # equal lengths: the profiler counts padding, the ledger does not
LENGTHS = torch.tensor([48, 48])


def profiled(encoder: Any) -> int:
    """FLOPs that torch counts, without the pooler on top of the encoder."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(input_ids=IDS)
    pooler = [sum(count.values()) for name, count in counter.get_flop_counts().items() if name.endswith(".pooler")]
    return counter.get_total_flops() - sum(pooler)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense(family: str, tiny: Callable[..., Any]) -> None:
    encoder = tiny(family)
    ledger = encoder_flops(adapter_for(family).shape(encoder.config), LENGTHS, {})
    assert ledger.sum().item() == pytest.approx(profiled(encoder), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["truncate", "adaptive"])
def test_with_tokens_removed(family: str, name: str, tiny: Callable[..., Any]) -> None:
    encoder = tiny(family)
    shape = adapter_for(family).shape(encoder.config)
    policy: RetentionPolicy = (
        Truncate(rho=0.4, slope=0.5) if name == "truncate" else Adaptive(dual=ExactDual(), rho=0.4, slope=0.5, inner=8)
    )
    policy.build(shape)
    with Retainer(encoder, policy.eval(), layers=policy.layers) as retainer:
        counted = profiled(encoder)
    kept = retainer.report.kept
    ledger = encoder_flops(shape, LENGTHS, kept) + scorer_flops(policy.scorer_macs(), LENGTHS, kept)
    assert ledger.sum().item() == pytest.approx(counted, rel=0.01)
    assert counted < 0.75 * encoder_flops(shape, LENGTHS, {}).sum().item()  # the saving is in the tensors, not on paper
