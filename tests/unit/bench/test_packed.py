"""Texts laid end to end give what padded ones give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from retention.bench import packed as packing
from retention.bench.availability import available
from retention.bench.forwards import Dense
from retention.bench.inputs import Batch, make_inputs, padded_to
from retention.bench.packed import FAMILIES, PackedDense, packed, packed_implementation, varlen_attention
from retention.bench.plan import Plan
from retention.bench.variants import Spec, VariantBuilder, specs
from retention.models.encoders import build_encoder

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3}
FIELDS: dict[str, dict[str, Any]] = {
    "distilbert": {"vocab_size": 60, "dim": 32, "n_heads": 4, "hidden_dim": 64, "n_layers": 3},
    "modernbert": {
        **SMALL,
        "global_attn_every_n_layers": 3,
        "local_attention": 6,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    },
}


@pytest.fixture
def batch() -> Batch:
    mask = (torch.arange(17).unsqueeze(0) < torch.tensor([17, 4, 9]).unsqueeze(1)).long()
    return {"input_ids": torch.randint(5, 60, (3, 17)) * mask + (1 - mask), "attention_mask": mask}


def encoder_of(family: str, attention: str) -> nn.Module:
    from transformers import AutoConfig

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FIELDS.get(family, SMALL), initializer_range=0.2)
    return build_encoder(config, attention).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_of_padded_texts(family: str, batch: Batch) -> None:
    plain = encoder_of(family, "sdpa")
    encoder = encoder_of(family, packed_implementation("cpu", torch.float32))
    encoder.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = Dense(plain)(batch)[:, :1]
        found = PackedDense(encoder)(packed(batch, encoder.config))
    assert found.shape == (3, 1, 32)
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


def test_texts_are_laid_end_to_end(batch: Batch) -> None:
    made = packed(batch, encoder_of("roberta", "sdpa").config)
    assert made["borders"].tolist() == [0, 17, 21, 30] and int(made["longest"]) == 17
    assert made["input_ids"].shape == (1, 30)
    assert made["input_ids"][0, 17:21].tolist() == batch["input_ids"][1, :4].tolist()
    assert made["position_ids"][0, 17:22].tolist() == [2, 3, 4, 5, 2]  # RoBERTa counts from 2


def test_cuda_computes_in_half_precision() -> None:
    with pytest.raises(ValueError, match="half precision"):
        packed_implementation("cuda", torch.float32)


def test_the_kernel_is_called_with_texts_and_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it has no backend; what it is given is checked against the product per text."""
    from torch.nn.attention import varlen

    def kernel(query: Any, key: Any, value: Any, cu: Any, _: Any, longest: int, __: int, **more: Any) -> Any:
        assert query.shape == (12, 2, 4) and longest == 7 and more["window_size"] == (2, 2)
        parts = []
        for first, last in ((0, 5), (5, 12)):
            places = torch.arange(last - first)
            near = (places[:, None] - places[None, :]).abs() <= more["window_size"][0]
            q, k, v = (states[first:last].transpose(0, 1) for states in (query, key, value))
            parts.append(nn.functional.scaled_dot_product_attention(q, k, v, near, scale=more["scale"]))
        return torch.cat(parts, 1).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    states = [torch.randn(1, 2, 12, 4) for _ in range(3)]
    texts: dict[str, Any] = {"cu_seq_lens_q": torch.tensor([0, 5, 12], dtype=torch.int32), "scaling": 0.5}
    found, _ = varlen_attention(nn.Identity(), *states, None, max_length_q=7, sliding_window=3, **texts)
    expected, _ = packing.per_text_attention(nn.Identity(), *states, None, sliding_window=3, **texts)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="no dropout"):
        varlen_attention(nn.Identity(), *states, None, max_length_q=7, dropout=0.1, **texts)


@pytest.fixture
def builder(plan: Callable[..., Plan]) -> VariantBuilder:
    made = plan(policies=("truncate",))
    inputs = make_inputs(made, 16, 3)
    return VariantBuilder(made, replace(inputs, padded=[padded_to(batch, 20, 0) for batch in inputs.bucketed]))


def test_what_the_platform_cannot_run_is_left_out_and_named(
    builder: VariantBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = specs(builder.plan, builder.inputs)
    assert Spec("dense-packed", "sdpa", packed=True) in wanted
    told: list[str] = []
    variants, unavailable = available(builder, wanted, "case", told.append)
    assert (list(variants), unavailable, told) == ([spec.name for spec in wanted], {}, [])

    def missing(*given: Any) -> str:
        raise ValueError("no such kernel here\nmore")

    monkeypatch.setattr("retention.bench.variants.packed_implementation", missing)
    variants, unavailable = available(builder, wanted, "case", told.append)
    assert unavailable == {"dense-packed": "ValueError: no such kernel here"}
    assert "dense-packed" not in variants and len(variants) == len(wanted) - 1
    assert "dense-packed is left out" in told[0]
