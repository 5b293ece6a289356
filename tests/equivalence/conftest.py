"""Provide tiny random encoders of every supported family, and a masking reference that does not use the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retention.engine import Decision, ForwardReport, LayerView, Retainer, adapter_for, adapters, encoder_of
from retention.policies import Adaptive, Random, RetentionPolicy, Threshold, Truncate

FAMILIES = sorted(adapters())
CASES = [(family, attention) for family in FAMILIES for attention in adapters()[family].attention]

ENCODER_DECODER = ("led", "t5")  # no classification head, or one on the decoder

LAYERS = 4
BERT_LIKE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "initializer_range": 0.2,  # far from uniform attention, so that a wrong mask or position shows
}
# A new family needs one entry here; without it its tests fail.
TINY: dict[str, dict[str, Any]] = {
    "bert": BERT_LIKE,
    "roberta": BERT_LIKE,
    "xlm-roberta": BERT_LIKE,
    "electra": {**BERT_LIKE, "embedding_size": 32},
    "mpnet": BERT_LIKE,
    "distilbert": {
        "vocab_size": 100,
        "dim": 32,
        "n_layers": LAYERS,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 80,
        "initializer_range": 0.2,
    },
    "big_bird": {**BERT_LIKE, "attention_type": "original_full"},
    "deberta-v2": {
        **BERT_LIKE,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 6,  # fewer than tokens, so that distant pairs share logarithmic buckets
        "max_relative_positions": 40,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "longformer": {**BERT_LIKE, "attention_window": [8, 4, 8, 4]},  # both sides together
    "led": {
        "vocab_size": 100,
        "d_model": 32,
        "encoder_layers": LAYERS,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "max_encoder_position_embeddings": 80,
        "max_decoder_position_embeddings": 80,
        "attention_window": [8, 4, 8, 4],
        "init_std": 0.2,
    },
    "t5": {
        "vocab_size": 100,
        "d_model": 32,
        "d_kv": 12,  # the heads together are wider than the states
        "d_ff": 64,
        "num_layers": LAYERS,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "initializer_factor": 1.0,
        "dropout_rate": 0.0,
    },
    "modernbert": {
        **BERT_LIKE,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests that use ``family`` by all families, and those that use ``attention`` by implementations."""
    if "attention" in metafunc.fixturenames:
        metafunc.parametrize(("family", "attention"), CASES)
    elif "encoder_decoder" in metafunc.fixturenames:
        metafunc.parametrize("encoder_decoder", ENCODER_DECODER)
    elif "encoder_only" in metafunc.fixturenames:
        metafunc.parametrize("encoder_only", [family for family in FAMILIES if family not in ENCODER_DECODER])
    elif "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES)


@pytest.fixture
def config() -> Callable[..., Any]:
    """Return ``config(family, **changes)``, which builds a tiny Hugging Face configuration."""
    from transformers import AutoConfig

    def make(family: str, **changes: Any) -> Any:
        if family not in TINY:
            pytest.fail(f"the family {family!r} has no tiny configuration; add one to TINY in {__file__}")
        return AutoConfig.for_model(family, **{**TINY[family], **changes})

    return make


@pytest.fixture
def build(config: Callable[..., Any]) -> Callable[..., nn.Module]:
    """Return ``build(family, attention, **changes)``, which builds a tiny random encoder in evaluation mode."""
    from transformers import AutoModel

    def make(family: str, attention: str | None = None, **changes: Any) -> nn.Module:
        torch.manual_seed(0)
        attention = attention or adapters()[family].attention[0]
        model: nn.Module = AutoModel.from_config(config(family, **changes), attn_implementation=attention)
        return encoder_of(model).eval()

    return make


@pytest.fixture
def encoder(request: pytest.FixtureRequest, family: str, build: Callable[..., nn.Module]) -> nn.Module:
    """Build the tiny encoder of the family and attention under test."""
    attention = request.getfixturevalue("attention") if "attention" in request.fixturenames else None
    return build(family, attention)


Batch = dict[str, Tensor]


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Return ``make_batch(encoder, lengths)``: random tokens, right-padded; the first token of a sample has id 3."""

    def make(encoder: nn.Module, lengths: tuple[int, ...] = (23, 15, 9)) -> Batch:
        generator = torch.Generator().manual_seed(7)
        ids = torch.randint(5, 100, (len(lengths), max(lengths)), generator=generator)
        ids[:, 0] = 3
        mask = (torch.arange(max(lengths)).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)).long()
        pad: Any = encoder.config.pad_token_id  # type: ignore[union-attr]
        return {"input_ids": torch.where(mask.bool(), ids, pad or 0), "attention_mask": mask}

    return make


Keep = dict[int, Tensor]


@pytest.fixture
def nested_keep() -> Callable[[Tensor], Keep]:
    """Return two nested keep masks, for layers 0 and 2; samples keep their first token and different counts."""

    def make(mask: Tensor) -> Keep:
        generator = torch.Generator().manual_seed(13)
        ratio = torch.linspace(0.4, 0.8, len(mask)).unsqueeze(1)
        first = (torch.rand(mask.shape, generator=generator) < ratio) & mask.bool()
        first[:, 0] = True
        second = first & (torch.rand(mask.shape, generator=generator) < 0.6)
        second[:, 0] = True
        assert len(set(first.sum(1).tolist())) > 1 and (first.sum(1) > second.sum(1)).all()
        return {0: first, 2: second}

    return make


@dataclass
class FixedGate:
    """Gate that keeps given original positions, by removal or by gates that are exactly 0 or 1."""

    keep: Keep
    soft: bool = False

    def begin(self, report: ForwardReport) -> None:
        pass

    def decide(self, view: LayerView) -> Decision:
        keep = self.keep[view.layer_idx].gather(1, view.positions) & view.valid
        if not self.soft:
            return Decision(keep_mask=keep)
        return Decision(log_gates=torch.where(keep, 0.0, torch.finfo(torch.float32).min / 4))


@pytest.fixture
def fixed_gate() -> type[FixedGate]:
    return FixedGate


@pytest.fixture
def layers_of() -> Callable[[nn.Module], list[nn.Module]]:
    """Return the Transformer layers without using the engine: the longest list of modules."""

    def find(encoder: nn.Module) -> list[nn.Module]:
        lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
        layers = list(max(lists, key=len))
        assert len(layers) == LAYERS
        return layers

    return find


def make_policy(name: str, **settings: Any) -> RetentionPolicy:
    """Build a policy by name, in evaluation mode."""
    torch.manual_seed(1)
    kinds: dict[str, Callable[..., RetentionPolicy]] = {
        "adaptive": Adaptive,
        "threshold": Threshold,
        "random": Random,
        "truncate": Truncate,
    }
    return kinds[name](**{"rho": 0.5, "slope": 0.5, **settings}).eval()


@pytest.fixture
def policy_named() -> Callable[..., RetentionPolicy]:
    """Return ``policy_named(name, **settings)``, which builds a policy."""
    return make_policy


@pytest.fixture
def attach() -> Callable[..., Retainer]:
    """Return ``attach(model, policy, **settings)``, which builds the policy for the encoder and a retainer of both."""

    def make(model: Any, policy: RetentionPolicy, **settings: Any) -> Retainer:
        torch.manual_seed(2)
        config = encoder_of(model).config
        policy.build(adapter_for(config.model_type).shape(config))
        policy.eval()
        return Retainer(model, policy, layers=policy.layers, **settings)

    return make


@pytest.fixture
def rounding(family: str) -> float:
    """Return the tolerance of full sequences to the library: 0 unless the engine computes the attention."""
    return 5e-6 if adapter_for(family).computes_attention else 0.0


def native_mask(encoder: Any, layer: Any, visible: Tensor) -> Tensor:
    """Build the full-length mask [B, 1, N, N] in the model's own format; ``visible`` [B, N], True = attended to."""
    batch, length = visible.shape
    attend = visible[:, None, None, :].expand(batch, 1, length, length)
    if getattr(layer, "attention_type", "") == "sliding_attention":
        positions = torch.arange(length)
        distance = (positions[:, None] - positions[None, :]).abs()
        # a removed token without kept neighbors attends to itself; no other token attends to it
        attend = (attend & (distance <= encoder.config.local_attention // 2)) | (distance == 0)
    if encoder.config.model_type in ("longformer", "led"):
        return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    if encoder.config._attn_implementation == "sdpa" or encoder.config.model_type == "deberta-v2":
        return attend
    return torch.zeros(attend.shape).masked_fill(~attend, torch.finfo(torch.float32).min)


@dataclass
class MaskSwap:
    """Pre-hook that replaces the attention mask of a layer, passed after the states or by name."""

    mask: Tensor

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if "is_index_masked" in kwargs:  # Longformer: [B, N], from which the library derives more masks
            removed = torch.nn.functional.pad(self.mask, (0, args[0].shape[1] - self.mask.shape[1]))
            mask = torch.where(removed < 0, removed, kwargs["attention_mask"])
            return args, {**kwargs, "attention_mask": mask, "is_index_masked": mask < 0}
        if "attention_mask" in kwargs:
            return args, {**kwargs, "attention_mask": self.mask}
        return (args[0], self.mask, *args[2:]), kwargs


@pytest.fixture
def masked_states(layers_of: Callable[[nn.Module], list[nn.Module]]) -> Callable[[nn.Module, Batch, Keep], Tensor]:
    """Return ``masked_states(encoder, batch, keep)``: the library at full length, removed tokens masked as keys."""

    @contextlib.contextmanager
    def swapped(encoder: nn.Module, mask: Tensor, keep: Keep) -> Iterator[None]:
        visible, handles = mask.bool() & keep.get(-1, mask.bool()), []  # -1: removed before layer 0
        for layer_idx, layer in enumerate(layers_of(encoder)):
            if layer_idx > min(keep):
                swap = MaskSwap(native_mask(encoder, layer, visible))
                handles.append(layer.register_forward_pre_hook(swap, with_kwargs=True))
            visible = visible & keep.get(layer_idx, visible)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(encoder: nn.Module, batch: Batch, keep: Keep) -> Tensor:
        with torch.no_grad(), swapped(encoder, batch["attention_mask"], keep):
            states: Tensor = encoder(**batch).last_hidden_state
        return states

    return run
