"""Train the scorers of a bounded cache from the command line: ``python -m retention.cache.train``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from retention.cache.command import exit_code, load_decoder
from retention.cache.policies.learned import LearnedScores
from retention.cache.targets import Example, TargetSettings, collect_example
from retention.cache.texts import encode_texts
from retention.cache.training import TrainingSettings, pairwise_accuracy, train_scores
from retention.core.scorer import SCORERS, ScorerConfig

# arguments that are stored with the scorers
ORIGIN = ("length", "scorer", "scorer_dim", "decay", "loss", "epochs", "lr", "sinks", "window", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Collect targets, train, and write the scorers to one file; return the exit code."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from transformers import AutoTokenizer

    settings = TrainingSettings(
        loss=arguments.loss,
        epochs=arguments.epochs,
        lr=arguments.lr,
        seed=arguments.seed,
    )
    target_settings = TargetSettings(sinks=arguments.sinks, window=arguments.window)
    config = ScorerConfig(
        scorer_kind=arguments.scorer, scorer_dim=arguments.scorer_dim, decay=arguments.decay, keep_bias=0.0
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = load_decoder(arguments.model, "eager")
    limit = arguments.limit + arguments.validation
    shortest = target_settings.shortest_text
    texts = encode_texts(
        arguments.texts, tokenizer, field=arguments.field, limit=limit, shortest=shortest, longest=arguments.length
    )
    start = time.perf_counter()
    examples = [collect_example(model, input_ids, target_settings) for input_ids in texts]
    print(f"targets of {len(examples)} texts: {time.perf_counter() - start:.0f} s")
    held_out = min(arguments.validation, len(examples) - 1)
    training, validation = examples[: len(examples) - held_out], examples[len(examples) - held_out :]
    torch.manual_seed(arguments.seed)
    policy = LearnedScores.for_model(model, config)
    start = time.perf_counter()
    losses = train_scores(policy, training, settings)
    print(f"loss by epoch: {', '.join(f'{loss:.4f}' for loss in losses)} ({time.perf_counter() - start:.0f} s)")
    if validation:
        print(f"pairs in the right order on {len(validation)} other texts: {pairwise_accuracy(policy, validation):.3f}")
    policy.origin = {name: getattr(arguments, name) for name in ORIGIN}
    policy.origin |= {"model": Path(arguments.model).name, "texts": arguments.texts.name, "tokens": _count(training)}
    policy.save(arguments.output)
    print(f"written: {arguments.output}")


def _count(examples: Sequence[Example]) -> int:
    return sum(len(example.counted) for example in examples)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.train", description="Train the scorers of a bounded cache."
    )
    parser.add_argument("--model", required=True, help="folder or hub name of a decoder")
    parser.add_argument("--texts", required=True, type=Path, help=".txt (one text per line) or .jsonl")
    parser.add_argument("--output", required=True, type=Path, help=".safetensors file to write the scorers to")
    parser.add_argument("--field", default="text", help="field of a .jsonl file (default: text)")
    parser.add_argument("--limit", type=int, default=24, help="texts to train on (default: 24)")
    parser.add_argument("--validation", type=int, default=2, help="further texts for validation (default: 2)")
    parser.add_argument("--length", type=int, default=512, help="tokens of a text at most (default: 512)")
    parser.add_argument("--scorer", choices=SCORERS, default="gated", help="kind of scorer (default: gated)")
    parser.add_argument("--scorer-dim", type=int, default=32, help="width of the gated scorer (default: 32)")
    parser.add_argument("--decay", type=float, default=0.9, help="decay of the running summary (default: 0.9)")
    parser.add_argument("--loss", choices=("regression", "ranking"), default="ranking", help="default: ranking")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    parser.add_argument("--lr", type=float, default=1e-3, help="default: 0.001")
    parser.add_argument("--sinks", type=int, default=4, help="default: 4")
    parser.add_argument("--window", type=int, default=16, help="default: 16")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
