"""Tiny random decoders of every supported family, and references in plain Python that do not use the cache."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from retention.cache import Arrivals, CacheBudget, CachePolicy, LearnedScores, retain_cache
from retention.cache.families import FAMILIES, attention_modules
from retention.core.scorer import ScorerConfig

LAYERS, VOCABULARY = 3, 100
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # large enough that a wrong mask or position shows, small enough for rounding
    "bos_token_id": 1,
    "eos_token_id": 99,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
# A new family needs one entry here; without it its tests fail.
TINY: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": None},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gpt_neox": {**SIZES, "rotary_pct": 0.5},
    "gpt2": {
        **{key: SIZES[key] for key in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id")},
        "pad_token_id": 0,
        "n_embd": 32,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": 128,
    },
}
CASES = [(family, attention) for family in FAMILIES for attention in ("sdpa", "eager")]


def tiny_decoder(family: str, attention: str = "sdpa") -> Any:
    """Build a decoder with random weights, in evaluation mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **TINY[family])
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def random_scorers(model: nn.Module, kind: str = "gated", *, per_head: bool = False) -> LearnedScores:
    """Build scorers with large random weights, so that scores differ and depend on the summary."""
    torch.manual_seed(1)
    config = ScorerConfig(scorer_kind=kind, scorer_dim=8, decay=0.7)
    policy = LearnedScores.for_model(model, config, per_head=per_head)
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.5)
    return policy.eval()


@dataclass(frozen=True)
class Texts:
    """Batch of token ids with mask and positions, as ``generate`` makes them."""

    input_ids: Tensor
    attention_mask: Tensor

    @property
    def position_ids(self) -> Tensor:
        """Count the real tokens."""
        return (self.attention_mask.cumsum(1) - 1).clamp_min(0)

    @property
    def valid(self) -> Tensor:
        """Mark the real tokens."""
        return self.attention_mask.bool()


def texts(padding: str, lengths: Sequence[int] = (40, 33, 9), seed: int = 0) -> Texts:
    """Build random sequences; ``padding`` is ``none`` (all of the first length), ``left`` or ``right``."""
    width = lengths[0]
    lengths = [width] * len(lengths) if padding == "none" else lengths
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 90, (len(lengths), width), generator=generator)
    columns = torch.arange(width)
    shortfall = width - torch.tensor(lengths).unsqueeze(1)
    mask = columns >= shortfall if padding == "left" else columns < width - shortfall
    return Texts(ids * mask, mask.long())


class Recorder(CachePolicy):
    """Pass scores on and keep them: ``scores[layer]`` [B, G, T]."""

    def __init__(self, policy: CachePolicy) -> None:
        super().__init__()
        self.policy = policy
        self.parts: dict[int, list[Tensor]] = {}

    def score(self, arrivals: Arrivals) -> Tensor:
        scores = self.policy.score(arrivals)
        scores = scores if scores.ndim == 3 else scores.unsqueeze(1)
        self.parts.setdefault(arrivals.layer_idx, []).append(scores)
        return scores

    @property
    def scores(self) -> list[Tensor]:
        return [torch.cat(self.parts[layer], dim=2) for layer in sorted(self.parts)]


@torch.no_grad()
def run_cache(
    model: Any, policy: CachePolicy, budget: CacheBudget, batch: Texts, chunks: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Feed a batch in chunks of the given sizes; return logits [B, T, V] and the columns held at the end."""
    outputs, start = [], 0
    with retain_cache(model, policy, budget) as cache:
        for size in chunks:
            end = start + size
            output = model(
                batch.input_ids[:, start:end],
                attention_mask=batch.attention_mask[:, :end],
                position_ids=batch.position_ids[:, start:end],
                past_key_values=cache,
            )
            outputs.append(output.logits)
            start = end
        assert start == batch.input_ids.shape[1]
        return torch.cat(outputs, dim=1), cache.kept


def simulate(scores: Sequence[float], budget: CacheBudget) -> list[set[int]]:
    """Return the tokens held after each arrival, from a cache in plain Python that drops the worst one by one."""
    held: list[int] = []
    history = []
    for newest in range(len(scores)):
        held.append(newest)
        if len(held) > budget.size:
            while len(held) > budget.size - budget.block + 1:
                free = [token for token in held if budget.sinks <= token <= newest - budget.window]
                held.remove(min(free, key=lambda token: (scores[token], -token)))
        history.append(set(held))
    return history


def held_masks(scores: list[Tensor], batch: Texts, budget: CacheBudget) -> list[Tensor]:
    """Compute for each layer which columns each query sees, [B, G, T, T] bool, by simulation from scores [B, G, T]."""
    rows, width = batch.input_ids.shape
    masks = []
    for layer_scores in scores:
        groups = layer_scores.shape[1]
        visible = torch.zeros(rows, groups, width, width, dtype=torch.bool)
        for row, group in itertools.product(range(rows), range(groups)):
            columns = batch.valid[row].nonzero().flatten().tolist()
            history = simulate(layer_scores[row, group, columns].tolist(), budget)
            for number, column in enumerate(columns):
                visible[row, group, column, [columns[token] for token in history[number]]] = True
        masks.append(visible | torch.eye(width, dtype=torch.bool))
    return masks


@torch.no_grad()
def run_masked(model: Any, batch: Texts, masks: list[Tensor]) -> Tensor:
    """Run the library's full model without a cache, with one mask [B, G, T, T] per layer; return logits."""
    heads = model.config.num_attention_heads

    def swap(visible: Tensor, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        mask = visible.repeat_interleave(heads // visible.shape[1], dim=1)
        if model.config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": mask}

    modules = attention_modules(model)
    handles = [
        module.register_forward_pre_hook(partial(swap, visible), with_kwargs=True)
        for module, visible in zip(modules, masks, strict=True)
    ]
    try:
        logits: Tensor = model(batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits


def largest_difference(left: Tensor, right: Tensor, batch: Texts) -> float:
    """Return the largest difference of logits at real tokens."""
    return float((left - right)[batch.valid].abs().max())
