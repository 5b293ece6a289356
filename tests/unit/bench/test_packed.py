"""Check that packed sequences give the states of padded ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from retention.bench import packed as packing
from retention.bench.availability import runnable_variants
from retention.bench.forwards import DenseForward
from retention.bench.inputs import Batch, make_inputs, pad_batch
from retention.bench.packed import FAMILIES, PackedForward, pack_batch, packed_implementation, varlen_attention
from retention.bench.plan import BenchPlan
from retention.bench.variants import VariantBuilder, VariantSpec, list_variants
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
def test_packed_states_equal_padded_states(family: str, batch: Batch) -> None:
    plain = encoder_of(family, "sdpa")
    encoder = encoder_of(family, packed_implementation("cpu", torch.float32))
    encoder.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected = DenseForward(plain)(batch)[:, :1]
        states = PackedForward(encoder)(pack_batch(batch, encoder.config))
    assert states.shape == (3, 1, 32)
    torch.testing.assert_close(states, expected, atol=5e-6, rtol=0)


def test_sequences_are_concatenated(batch: Batch) -> None:
    packed = pack_batch(batch, encoder_of("roberta", "sdpa").config)
    assert packed["offsets"].tolist() == [0, 17, 21, 30] and int(packed["max_length"]) == 17
    assert packed["input_ids"].shape == (1, 30)
    assert packed["input_ids"][0, 17:21].tolist() == batch["input_ids"][1, :4].tolist()
    assert packed["position_ids"][0, 17:22].tolist() == [2, 3, 4, 5, 2]  # RoBERTa counts from 2


def test_cuda_needs_half_precision() -> None:
    with pytest.raises(ValueError, match="half precision"):
        packed_implementation("cuda", torch.float32)


def test_kernel_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no such kernel; its arguments are checked by computing the same with attention per sequence."""
    from torch.nn.attention import varlen

    def kernel(query: Any, key: Any, value: Any, cu: Any, _: Any, longest: int, __: int, **more: Any) -> Any:
        assert query.shape == (12, 2, 4) and longest == 7 and more["window_size"] == (2, 2)
        parts = []
        for start, end in ((0, 5), (5, 12)):
            positions = torch.arange(end - start)
            near = (positions[:, None] - positions[None, :]).abs() <= more["window_size"][0]
            q, k, v = (states[start:end].transpose(0, 1) for states in (query, key, value))
            parts.append(nn.functional.scaled_dot_product_attention(q, k, v, near, scale=more["scale"]))
        return torch.cat(parts, 1).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    states = [torch.randn(1, 2, 12, 4) for _ in range(3)]
    texts: dict[str, Any] = {"cu_seq_lens_q": torch.tensor([0, 5, 12], dtype=torch.int32), "scaling": 0.5}
    output, _ = varlen_attention(nn.Identity(), *states, None, max_length_q=7, sliding_window=3, **texts)
    expected, _ = packing.per_sequence_attention(nn.Identity(), *states, None, sliding_window=3, **texts)
    torch.testing.assert_close(output, expected)
    with pytest.raises(ValueError, match="no dropout"):
        varlen_attention(nn.Identity(), *states, None, max_length_q=7, dropout=0.1, **texts)


@pytest.fixture
def builder(plan: Callable[..., BenchPlan]) -> VariantBuilder:
    made = plan(policies=("truncate",))
    inputs = make_inputs(made, 16, 3)
    return VariantBuilder(made, replace(inputs, padded=[pad_batch(batch, 20, 0) for batch in inputs.bucketed]))


def test_variants_that_cannot_run_are_left_out(builder: VariantBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    variant_specs = list_variants(builder.plan, builder.inputs)
    assert VariantSpec("dense-packed", "sdpa", packed=True) in variant_specs
    messages: list[str] = []
    variants, unavailable = runnable_variants(builder, variant_specs, "case", messages.append)
    assert (list(variants), unavailable, messages) == ([spec.name for spec in variant_specs], {}, [])

    def missing(*given: Any) -> str:
        raise ValueError("no such kernel here\nmore")

    monkeypatch.setattr("retention.bench.variants.packed_implementation", missing)
    variants, unavailable = runnable_variants(builder, variant_specs, "case", messages.append)
    assert unavailable == {"dense-packed": "ValueError: no such kernel here"}
    assert "dense-packed" not in variants and len(variants) == len(variant_specs) - 1
    assert "dense-packed is left out" in messages[0]
