"""The FLOPs ledger against torch's own count of matrix products, dense and with tokens removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from retention.core.dual import ExactDual
from retention.core.flops import encoder_flops, scorer_flops
from retention.engine import Retainer, adapter_for, engine_attention
from retention.policies import Adaptive, RetentionPolicy, Truncate

FAMILIES = ["bert", "distilbert", "modernbert", "deberta-v2", "longformer", "t5"]
# what the ledger leaves out: relative positions (2 x 4 of them) are projected twice in each of four layers, per pass
PER_PASS = {"deberta-v2": 4 * 2 * (2 * 8 * 32 * 32)}
IDS = torch.arange(2 * 48).reshape(2, 48) % 60  # equal lengths: the profiler counts padding, the ledger does not
LENGTHS = torch.tensor([48, 48])
GLOBAL = {"longformer": torch.tensor([1, 1])}  # the first token of each text


def profiled(encoder: Any) -> int:
    """FLOPs that torch counts, without the pooler on top of the encoder."""
    encoder.requires_grad_(False)  # the counter follows modules and trips over parameters among their arguments
    inputs = adapter_for(encoder.config.model_type).inputs({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)})
    # the counter does not know the fused attention of the CPU
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(**inputs)
    pooler = [sum(count.values()) for name, count in counter.get_flop_counts().items() if name.endswith(".pooler")]
    return counter.get_total_flops() - sum(pooler)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense(family: str, tiny: Callable[..., Any]) -> None:
    encoder = tiny(family)
    ledger = encoder_flops(adapter_for(family).shape(encoder.config), LENGTHS, {}, GLOBAL.get(family))
    with engine_attention(encoder):
        counted = profiled(encoder) - PER_PASS.get(family, 0)
    assert ledger.sum().item() == pytest.approx(counted, rel=0.01)


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
        counted = profiled(encoder) - PER_PASS.get(family, 0)
    kept, shared = retainer.report.kept, retainer.report.global_tokens
    assert (shared is None) == (family not in GLOBAL)
    ledger = encoder_flops(shape, LENGTHS, kept, shared) + scorer_flops(policy.scorer_macs(), LENGTHS, kept)
    assert ledger.sum().item() == pytest.approx(counted, rel=0.01)
    assert (
        counted < 0.75 * encoder_flops(shape, LENGTHS, {}, shared).sum().item()
    )  # the saving is in the tensors, not on paper
