"""Measure memory and time of a bounded cache beside the full one: ``python -m retention.cache.bench``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from retention.cache.budget import CacheBudget
from retention.cache.cache import RetentionCache
from retention.cache.command import add_cache_arguments, append_result, cache_budget, exit_code, load_decoder
from retention.cache.comparison import decoding_record
from retention.cache.policies.base import CachePolicy, RescoringPolicy
from retention.cache.policies.named import POLICIES, build_policies
from retention.cache.reading import CHUNK, attention_for
from retention.errors import require

# how single tokens are decoded: in tensors of the size that is held, in buffers of M slots, or these and compiled
FORMS = ("dynamic", "fixed", "compiled")


@dataclass(frozen=True)
class DecodingCost:
    """Cost of decoding after a prompt.

    Attributes:
        form: of ``FORMS``; ``dynamic`` for the full cache.
        length: tokens of the prompt.
        cache_bytes: memory of keys and values after the last token, all layers.
        peak_tokens: largest number of tokens that a layer held after a pass.
        prefill_s: seconds for the prompt.
        ms_per_token: ``median``, ``low`` (10 %) and ``high`` (90 %) over the new tokens.
    """

    form: str
    length: int
    cache_bytes: int
    peak_tokens: int
    prefill_s: float
    ms_per_token: dict[str, float]


@torch.no_grad()
def decoding_cost(
    model: Any,
    input_ids: Tensor,
    policy: CachePolicy | None,
    budget: CacheBudget,
    *,
    new_tokens: int = 32,
    chunk: int = CHUNK,
    form: str = "dynamic",
) -> DecodingCost:
    """Read a prompt in chunks, write new tokens greedily, and measure both.

    Args:
        model: a supported decoder with a language-model head, in evaluation mode.
        input_ids: [B, T] long, the prompt without padding.
        policy: of the bounded cache; None = the full cache.
        budget: of the bounded cache.
        new_tokens: tokens to write after a first one that warms up (in the compiled form, two), >= 2.
        chunk: tokens of the prompt per forward pass, >= 1.
        form: of ``FORMS``.

    Raises:
        ConfigError: a number is out of range, or the policy cannot decode in this form.
    """
    require(new_tokens >= 2, "new_tokens", f"must be >= 2, got {new_tokens}")
    require(chunk >= 1, "chunk", f"must be >= 1, got {chunk}")
    require(form in FORMS, "form", f"must be one of {', '.join(FORMS)}, got {form!r}")
    message = "the full cache grows; give a policy for the other forms"
    require(policy is not None or form == "dynamic", "form", message)
    cache: Cache = DynamicCache(config=model.config)
    if policy is not None:
        cache = RetentionCache(model, policy, budget, fixed=form != "dynamic")
    decoder = torch.compile(model, fullgraph=True) if form == "compiled" else model
    warmup = 2 if form == "compiled" else 1
    try:
        start, peak = time.perf_counter(), 0
        for part in torch.split(input_ids, chunk, dim=1):
            logits = model(part, past_key_values=cache, logits_to_keep=1).logits
            peak = max(peak, _held(cache))
        token = _next(logits)
        prefill = time.perf_counter() - start
        times = []
        for _ in range(new_tokens + warmup):
            start = time.perf_counter()
            token = _next(decoder(token, past_key_values=cache).logits)
            times.append(1000 * (time.perf_counter() - start))
            peak = max(peak, _held(cache))
    finally:
        if isinstance(cache, RetentionCache):
            cache.detach()
    deciles = quantiles(times[warmup:], n=10, method="inclusive")
    spread = {"median": median(times[warmup:]), "low": deciles[0], "high": deciles[-1]}
    return DecodingCost(form, input_ids.shape[1], cache_bytes(cache), peak, prefill, spread)


def cache_bytes(cache: Cache) -> int:
    """Return the memory of the keys and values of all layers."""
    layers: list[Any] = list(cache.layers)
    return sum(tensor.untyped_storage().nbytes() for layer in layers for tensor in (layer.keys, layer.values))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of memory and times, and append a record of each row on request; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words)
    return exit_code(lambda: _run(arguments, words))


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    model = load_decoder(arguments.model)
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(arguments.lengths) + arguments.new_tokens + 3
    message = f"the model has {positions} positions; {longest} are needed, choose shorter prompts"
    require(positions is None or longest <= positions, "--lengths", message)
    policies = build_policies(list(arguments.policies), arguments.scores, arguments.seed)
    budget = cache_budget(arguments.size, arguments)
    generator = torch.Generator().manual_seed(arguments.seed)
    print("| policy | form | prompt | cache MiB | prefill s | ms per token | 10-90 % |\n" + "| --- " * 7 + "|")
    for length in arguments.lengths:
        prompt = torch.randint(3, model.config.vocab_size, (arguments.batch, length), generator=generator)
        rows = [(name, form) for name, policy in policies.items() for form in _forms(policy, arguments.forms)]
        for name, form in rows:
            policy = policies[name]
            start = time.perf_counter()
            with attention_for(model, policy):
                cost = decoding_cost(model, prompt, policy, budget, new_tokens=arguments.new_tokens, form=form)
            spread = cost.ms_per_token
            cells = (name, form, length, f"{cost.cache_bytes / 2**20:.2f}", f"{cost.prefill_s:.2f}")
            times = (f"{spread['median']:.1f}", f"{spread['low']:.1f}-{spread['high']:.1f}")
            print("| " + " | ".join(map(str, (*cells, *times))) + " |", flush=True)
            if arguments.record is not None:
                seconds = time.perf_counter() - start
                fields = {"model": Path(arguments.model).name, "task": "cost", "cost": vars(cost)}
                record = decoding_record(name, policy, budget, **fields)
                argv = ["-m", "retention.cache.bench", *words]
                append_result(arguments, record, seconds, argv)


def _forms(policy: CachePolicy | None, forms: Sequence[str]) -> Sequence[str]:
    """Return the forms in which a policy is measured: all of ``forms`` if its scores are fixed on arrival."""
    on_arrival = policy is not None and not isinstance(policy, RescoringPolicy)
    return forms if on_arrival else FORMS[:1]


def _next(logits: Tensor) -> Tensor:
    return logits[:, -1:].argmax(-1)


def _held(cache: Cache) -> int:
    layers: list[Any] = list(cache.layers)
    return max(int(layer.keys.shape[2]) for layer in layers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.bench", description="Memory and time per token of a bounded and the full cache."
    )
    add_cache_arguments(parser)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096], help="tokens of the prompts")
    parser.add_argument("--size", type=int, default=256, help="tokens per layer (default: 256)")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=POLICIES, help="default: all of them")
    parser.add_argument("--batch", type=int, default=1, help="sequences (default: 1)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to write (default: 32)")
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=FORMS[:1],
        help="of decoding: dynamic, fixed slots, or these compiled; the full cache and policies that renew scores "
        "have the first alone (default: dynamic)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the prompts and the random policy (default: 0)")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append a record of each row to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
