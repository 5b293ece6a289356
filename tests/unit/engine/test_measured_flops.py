"""Test analytic FLOPs against torch's count of matrix products: every family, dense and with tokens removed.

The two differ in these points:

- The fused attention of the CPU has no formula in the counter, so it runs as plain matrix products here.
- A local window counts the keys within it, while eager and sdpa attention mask the product of all pairs. The windows of
  the encoders in this file cover the whole sequence; ``test_local_window`` tests the difference.
- Padding has no analytic FLOPs; the sequences in this file have equal lengths.
- The pooler is not part of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from retention.core.flops import encoder_flops
from retention.core.scorer import ScorerConfig
from retention.engine import ForwardReport, Retainer, adapter_for, adapters, engine_attention
from retention.policies import Adaptive, RetentionPolicy, Truncate

FAMILIES = sorted(adapters())
PRUNE_POINTS = [(family, prune_at) for family in FAMILIES for prune_at in adapters()[family].prune_points]
IDS = torch.arange(2 * 48).reshape(2, 48) % 60
LENGTHS = torch.tensor([48, 48])
GLOBAL = dict.fromkeys(("led", "longformer"), torch.tensor([1, 1]))  # the first token of each sequence


def profile(encoder: Any) -> tuple[int, list[int]]:
    """Return the FLOPs counted by torch: of the encoder without its pooler, and of each of its layers."""
    encoder.requires_grad_(False)  # the counter fails on parameters among the arguments of modules
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


def profile_removal(encoder: Any, policy: RetentionPolicy, prune_at: str) -> tuple[ForwardReport, int, list[int]]:
    """Return the report and the profile of a pass with removal."""
    policy.build(adapter_for(encoder.config.model_type).shape(encoder.config))
    with Retainer(encoder, policy.eval(), layers=policy.layers, prune_at=prune_at) as retainer:
        total, by_layer = profile(encoder)
    return retainer.report, total, by_layer


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_encoder(family: str, tiny: Callable[..., Any]) -> None:
    encoder = tiny(family)
    expected = encoder_flops(adapter_for(family).shape(encoder.config), LENGTHS, {}, GLOBAL.get(family))
    with engine_attention(encoder):
        counted, _ = profile(encoder)
    assert expected.sum().item() == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize(("family", "prune_at"), PRUNE_POINTS)
def test_removal_layer_by_layer(family: str, prune_at: str, tiny: Callable[..., Any]) -> None:
    encoder, policy = tiny(family), Truncate(rho=0.4, slope=0.5)
    report, total, counted = profile_removal(encoder, policy, prune_at)
    shape, early = adapter_for(family).shape(encoder.config), prune_at == "after_attention"
    assert (report.global_tokens is None) == (family not in GLOBAL)
    dense, spent = report.flops_by_layer(shape, {}, before_feed_forward=early)
    assert sum(spent) == pytest.approx(total, rel=0.01)
    embeddings = (
        2.0 * shape.embedding_macs * float(LENGTHS.sum())
    )  # part of the first layer analytically, but not in torch's count
    assert [spent[0] - embeddings, *spent[1:]] == pytest.approx(counted, rel=0.01)
    assert total < 0.75 * sum(dense)  # tensors are really shorter


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kinds", [["c2p"], ["p2c", "c2p"]])
def test_relative_position_kinds(kinds: list[str], shared: bool, tiny: Callable[..., Any]) -> None:
    encoder = tiny("deberta-v2", pos_att_type=kinds, share_att_key=shared)
    expected = encoder_flops(adapter_for("deberta-v2").shape(encoder.config), LENGTHS, {})
    assert expected.sum().item() == profile(encoder)[0]


@pytest.mark.parametrize("prune_at", ["after_layer", "after_attention"])
@pytest.mark.parametrize("scorer_kind", ["gated", "mlp", "linear"])
def test_scorer_flops(scorer_kind: str, prune_at: str, tiny: Callable[..., Any]) -> None:
    encoder, policy = (
        tiny("bert"),
        Adaptive(rho=0.4, slope=0.5, scorer=ScorerConfig(scorer_dim=8, scorer_kind=scorer_kind)),
    )
    report, total, _ = profile_removal(encoder, policy, prune_at)
    shape, early = adapter_for("bert").shape(encoder.config), prune_at == "after_attention"
    _, spent = report.flops(shape, policy.scorer_macs(), before_feed_forward=early)
    assert spent == pytest.approx(total, rel=1e-9)
    _, without_scorers = report.flops(shape, {}, before_feed_forward=early)
    assert total - without_scorers == sum(
        2 * macs * int(report.kept.get(layer_idx - 1, LENGTHS).sum())
        for layer_idx, macs in policy.scorer_macs().items()
    )


def test_local_window(tiny: Callable[..., Any]) -> None:
    """Masked products of all pairs cost more than the keys within the window."""
    encoder = tiny("modernbert", global_attn_every_n_layers=4, local_attention=8)
    shape = adapter_for("modernbert").shape(encoder.config)
    expected = encoder_flops(shape, LENGTHS, {}).sum().item()
    counted, _ = profile(encoder)
    masked = 48 * (48 - (2 * 4 + 1))  # pairs of one sequence, in three layers of four
    assert counted == expected + 2 * 3 * 4 * masked * 32


@pytest.mark.parametrize("family", FAMILIES)
def test_removal_before_layer_0(family: str, tiny: Callable[..., Any]) -> None:
    encoder, policy = tiny(family), Truncate(rho=0.4, slope=0.5, layers=[-1, 0, 2])
    report, total, counted = profile_removal(encoder, policy, "after_layer")
    shape = adapter_for(family).shape(encoder.config)
    dense, spent = report.flops_by_layer(shape, {}, before_feed_forward=False)
    assert report.kept[-1].tolist() == [28, 28]  # floor(0.4 * 1.5 * 48)
    assert sum(spent) == pytest.approx(total, rel=0.01)
    embeddings = 2.0 * shape.embedding_macs * float(LENGTHS.sum())
    assert [spent[0] - embeddings, *spent[1:]] == pytest.approx(counted, rel=0.01)
    assert spent[0] < 0.8 * dense[0]
