"""The FLOPs ledger against torch's own count of matrix products: every family, dense and with tokens removed.

Where the two count differently, and why:

- The fused attention of the CPU has no formula in the counter, so it runs as plain matrix products here.
- A local window is counted as the keys it lets a query see, while eager and sdpa mask the product of all pairs; the
  windows of this file's encoders cover the whole text. ``test_a_window`` has the difference.
- Padding costs nothing in the ledger; the texts of this file have equal lengths.
- The pooler is no part of the encoder, and training here runs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from retention.core.duals import ExactDual
from retention.core.flops import encoder_flops
from retention.engine import ForwardReport, Retainer, adapter_for, adapters, engine_attention
from retention.policies import Adaptive, RetentionPolicy, Truncate

FAMILIES = sorted(adapters())
PLACES = [(family, prune_at) for family in FAMILIES for prune_at in adapters()[family].prune_points]
IDS = torch.arange(2 * 48).reshape(2, 48) % 60
LENGTHS = torch.tensor([48, 48])
GLOBAL = dict.fromkeys(("led", "longformer"), torch.tensor([1, 1]))  # the first token of each text


def profiled(encoder: Any) -> tuple[int, list[int]]:
    """FLOPs that torch counts: of the encoder without its pooler, and of each of its layers."""
    encoder.requires_grad_(False)  # the counter follows modules and trips over parameters among their arguments
    adapter = adapter_for(encoder.config.model_type)
    names = {id(module): name for name, module in encoder.named_modules()}
    inputs = adapter.inputs({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(**inputs)
    counts = {name: sum(count.values()) for name, count in counter.get_flop_counts().items()}
    root = type(encoder).__name__
    by_layer = [counts[f"{root}.{names[id(layer)]}"] for layer in adapter.layers(encoder)]
    pooler = sum(count for name, count in counts.items() if name.endswith(".pooler"))
    return counter.get_total_flops() - pooler, by_layer


def removing(encoder: Any, policy: RetentionPolicy, prune_at: str) -> tuple[ForwardReport, int, list[int]]:
    """Report and profile of a pass with removal."""
    policy.build(adapter_for(encoder.config.model_type).shape(encoder.config))
    with Retainer(encoder, policy.eval(), layers=policy.layers, prune_at=prune_at) as retainer:
        total, by_layer = profiled(encoder)
    return retainer.report, total, by_layer


@pytest.mark.parametrize("family", FAMILIES)
def test_dense(family: str, tiny: Callable[..., Any]) -> None:
    encoder = tiny(family)
    ledger = encoder_flops(adapter_for(family).shape(encoder.config), LENGTHS, {}, GLOBAL.get(family))
    with engine_attention(encoder):
        counted, _ = profiled(encoder)
    assert ledger.sum().item() == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize(("family", "prune_at"), PLACES)
def test_with_tokens_removed_layer_by_layer(family: str, prune_at: str, tiny: Callable[..., Any]) -> None:
    encoder, policy = tiny(family), Truncate(rho=0.4, slope=0.5)
    report, total, counted = removing(encoder, policy, prune_at)
    shape, early = adapter_for(family).shape(encoder.config), prune_at == "after_attention"
    assert (report.global_tokens is None) == (family not in GLOBAL)
    dense, spent = report.flops_by_layer(shape, {}, before_feed_forward=early)
    assert sum(spent) == pytest.approx(total, rel=0.01)
    embeddings = 2.0 * shape.embedding_macs * float(LENGTHS.sum())  # the ledger's first layer has them, torch's has not
    assert [spent[0] - embeddings, *spent[1:]] == pytest.approx(counted, rel=0.01)
    assert total < 0.75 * sum(dense)  # the saving is in the tensors, not on paper


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kinds", [["c2p"], ["p2c", "c2p"]])
def test_kinds_of_relative_positions(kinds: list[str], shared: bool, tiny: Callable[..., Any]) -> None:
    encoder = tiny("deberta-v2", pos_att_type=kinds, share_att_key=shared)
    ledger = encoder_flops(adapter_for("deberta-v2").shape(encoder.config), LENGTHS, {})
    assert ledger.sum().item() == profiled(encoder)[0]


@pytest.mark.parametrize("prune_at", ["after_layer", "after_attention"])
@pytest.mark.parametrize("scorer_kind", ["gated", "mlp", "linear"])
def test_scorers(scorer_kind: str, prune_at: str, tiny: Callable[..., Any]) -> None:
    encoder, policy = (
        tiny("bert"),
        Adaptive(dual=ExactDual(), rho=0.4, slope=0.5, scorer_dim=8, scorer_kind=scorer_kind),
    )
    report, total, _ = removing(encoder, policy, prune_at)
    shape, early = adapter_for("bert").shape(encoder.config), prune_at == "after_attention"
    _, spent = report.flops(shape, policy.scorer_macs(), before_feed_forward=early)
    assert spent == pytest.approx(total, rel=1e-9)
    _, unscored = report.flops(shape, {}, before_feed_forward=early)
    assert total - unscored == sum(
        2 * macs * int(report.kept.get(layer_idx - 1, LENGTHS).sum())
        for layer_idx, macs in policy.scorer_macs().items()
    )


def test_a_window(tiny: Callable[..., Any]) -> None:
    """Masked products of all pairs cost more than the keys that the window lets through."""
    encoder = tiny("modernbert", global_attn_every_n_layers=4, local_attention=8)
    shape = adapter_for("modernbert").shape(encoder.config)
    ledger = encoder_flops(shape, LENGTHS, {}).sum().item()
    counted, _ = profiled(encoder)
    unseen = 48 * (48 - (2 * 4 + 1))  # pairs of one text, in three layers of four
    assert counted == ledger + 2 * 3 * 4 * unseen * 32
