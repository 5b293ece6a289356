"""Compare policies of a bounded cache on texts: ``python -m retention.cache.evaluate``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from retention.cache.budget import CacheBudget
from retention.cache.evaluation import mean_loss, text_loss
from retention.cache.policies import CachePolicy, KeyNorm, LearnedScores, RandomBank, StreamingLLM
from retention.cache.texts import encode_texts
from retention.errors import RetentionError

POLICIES = ("full", "streaming_llm", "random", "key_norm")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of mean losses, and append a record of each row on request; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words)
    try:
        _run(arguments, words)
    except RetentionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = encode_texts(
        arguments.texts,
        AutoTokenizer.from_pretrained(arguments.model),
        field=arguments.field,
        limit=arguments.limit,
        skip=arguments.skip,
        shortest=max(arguments.min_length, *(size + 1 for size in arguments.sizes)),
        longest=arguments.length,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    model.eval()
    policies = _policies(arguments)
    print("| policy | size | loss | by text | s |\n| --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        budget = CacheBudget(size=size, sinks=arguments.sinks, window=max(1, int(size * arguments.window_share)))
        for name, policy in policies.items():
            start = time.perf_counter()
            losses = [text_loss(model, input_ids, size, policy, budget) for input_ids in texts]
            seconds = time.perf_counter() - start
            by_text = ", ".join(f"{loss.mean:.3f}" for loss in losses)
            print(f"| {name} | {size} | {mean_loss(losses):.4f} | {by_text} | {seconds:.0f} |", flush=True)
            if arguments.record is not None:
                result = {
                    "model": Path(arguments.model).name,
                    "policy": name,
                    "size": size,
                    "sinks": budget.sinks,
                    "window": budget.window,
                    "scores": policy.origin if isinstance(policy, LearnedScores) else None,
                    "texts": arguments.texts.name,
                    "text_lengths": [input_ids.shape[1] for input_ids in texts],
                    "counted_tokens": [loss.tokens for loss in losses],
                    "loss": mean_loss(losses),
                    "loss_by_text": [loss.mean for loss in losses],
                    "seed": arguments.seed,
                    "wall_s": seconds,
                }
                _append_record(arguments.record, result, words)


def _policies(arguments: argparse.Namespace) -> dict[str, CachePolicy | None]:
    """Return the policies to compare; None = the full model."""
    available: dict[str, CachePolicy | None] = {
        "full": None,
        "streaming_llm": StreamingLLM(),
        "random": RandomBank(arguments.seed),
        "key_norm": KeyNorm(),
    }
    learned = {f"learned:{path.stem}": LearnedScores.load(path) for path in arguments.scores}
    return {name: available[name] for name in arguments.policies} | learned


def _append_record(path: Path, result: dict[str, Any], words: Sequence[str]) -> None:
    """Append a result and its origin; needs the extra ``experiments``."""
    from retention.records import append_record
    from retention.records.provenance import command_line, commit, machine, portable, versions

    origin = {
        "kind": "decoding",
        "command": command_line(["-m", "retention.cache.evaluate", *words]),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    append_record(path, portable({**origin, **result}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.evaluate",
        description="Mean loss of the tokens that are predicted after the cache is full.",
    )
    parser.add_argument("--model", required=True, help="folder or hub name of a decoder")
    parser.add_argument("--texts", required=True, type=Path, help=".txt (one text per line) or .jsonl")
    parser.add_argument("--field", default="text", help="field of a .jsonl file (default: text)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 96], help="tokens per layer (default: 48 96)")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=POLICIES, help="default: all of them")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="files of retention.cache.train")
    parser.add_argument("--limit", type=int, default=4, help="number of texts (default: 4)")
    parser.add_argument("--skip", type=int, default=0, help="texts to leave out first (default: 0)")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a text at most (default: 1024)")
    parser.add_argument("--min-length", type=int, default=0, help="leave out texts with fewer tokens")
    parser.add_argument("--sinks", type=int, default=4, help="default: 4")
    parser.add_argument("--window-share", type=float, default=0.5, help="window / size (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the random policy (default: 0)")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append a record of each row to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
