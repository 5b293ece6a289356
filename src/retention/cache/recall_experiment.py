"""Train a small decoder and scorers, and compare policies on recall: ``python -m retention.cache.recall_experiment``.

For each seed a decoder learns associative recall from scratch, scorers learn by future attention and then by
distillation which tokens to hold, and all policies answer questions about the same contexts with the same cache.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from retention.cache.budget import CacheBudget
from retention.cache.command import exit_code
from retention.cache.comparison import Measured, compare_policies
from retention.cache.distillation import DistillationExample, DistillationSettings, distill_scores
from retention.cache.policies.learned import LearnedScores
from retention.cache.policies.named import FULL, POLICIES, build_policies
from retention.cache.small_decoder import DecoderSettings, train_decoder
from retention.cache.symbol_recall import TEST_SEED, SymbolRecall, measure_recall
from retention.cache.targets import TargetExamples, TargetSettings
from retention.cache.training import TrainingSettings, train_scores
from retention.core.scorer import ScorerConfig
from retention.errors import require

LEARNED = "learned"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print one table, and append a record per policy and seed on request; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words)
    return exit_code(lambda: _run(arguments, words))


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    require(0 < arguments.share <= 1, "--share", f"must be in (0, 1], got {arguments.share}")
    require(arguments.contexts >= 1, "--contexts", f"must be >= 1, got {arguments.contexts}")
    task = SymbolRecall(
        context=arguments.context, pairs=arguments.pairs, reassigned=arguments.reassigned, tail=arguments.tail
    )
    settings = DecoderSettings(steps=arguments.decoder_steps)
    size = round(arguments.share * task.context)
    budget = CacheBudget(size=size, sinks=arguments.sinks, window=arguments.window)
    table: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        model = _decoder(task, settings, seed)
        scores = _scorers(model, task, budget, arguments, seed)
        batch = task.held_out(arguments.contexts, seed + TEST_SEED)
        policies = build_policies(list(POLICIES), [], seed) | {LEARNED: scores}
        for result in compare_policies(model, policies, budget, partial(measure_recall, model, batch), FULL):
            print(f"seed {seed}: {result.name} {result.measurement.value:.3f}", flush=True)
            table.setdefault(result.name, []).append(result.measurement.value)
            if arguments.record is not None:
                _append(result, settings, arguments, words, seed)
    _print_table(table, budget, task, arguments.seeds)


def _decoder(task: SymbolRecall, settings: DecoderSettings, seed: int) -> Any:
    start = time.perf_counter()
    recent: list[float] = []

    def show(step: int, context: int, accuracy: float) -> None:
        recent.append(accuracy)
        if step % 100 == 0:
            print(f"seed {seed}, step {step}: accuracy {fmean(recent):.3f} on {context} tokens", flush=True)
            recent.clear()

    model = train_decoder(task, settings, seed, show)
    print(f"seed {seed}: decoder trained in {time.perf_counter() - start:.0f} s", flush=True)
    return model


def _scorers(
    model: Any, task: SymbolRecall, budget: CacheBudget, arguments: argparse.Namespace, seed: int
) -> LearnedScores:
    """Train scorers by future attention, then by distillation."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    policy = LearnedScores.for_model(model, ScorerConfig(scorer_dim=32, keep_bias=0.0))
    targets = TargetSettings(sinks=budget.sinks, window=budget.window, min_queries=8)
    questions = task.pairs
    texts = task.batch(arguments.texts, questions, generator).chained()
    examples = TargetExamples(model, [text.unsqueeze(0) for text in texts], targets)
    losses = train_scores(policy, examples, TrainingSettings(epochs=arguments.epochs, lr=3e-3, seed=seed))
    print(f"seed {seed}: ranking loss {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)
    if arguments.distillation_steps:
        batches = [task.batch(16, questions, generator) for _ in range(arguments.distillation_steps)]
        distillation = [DistillationExample.of_columns(batch.chained(), batch.answering()) for batch in batches]
        steps = distill_scores(model, policy, distillation, budget, DistillationSettings(epochs=1, lr=3e-3, seed=seed))
        print(f"seed {seed}: KL {steps[0].loss:.3f} -> {steps[-1].loss:.3f}", flush=True)
    policy.origin = {
        "loss": "ranking, then distillation" if arguments.distillation_steps else "ranking",
        "seed": seed,
        **{name: getattr(arguments, name) for name in ("texts", "epochs", "distillation_steps", "sinks", "window")},
    }
    print(f"seed {seed}: scorers trained in {time.perf_counter() - start:.0f} s", flush=True)
    return policy


def _append(
    result: Measured, settings: DecoderSettings, arguments: argparse.Namespace, words: Sequence[str], seed: int
) -> None:
    """Append the record of a result; needs the extra ``experiments``."""
    from retention.records import append_record, build_record

    record = result.record("accuracy", model=settings.name, task="symbol_recall")
    config = {name: value for name, value in vars(arguments).items() if name != "record"}
    config |= {"decoder": vars(settings), "threads": torch.get_num_threads()}
    argv = ["-m", "retention.cache.recall_experiment", *words]
    append_record(arguments.record, build_record(record, config=config, seed=seed, wall_s=result.seconds, argv=argv))


def _print_table(table: dict[str, list[float]], budget: CacheBudget, task: SymbolRecall, seeds: Sequence[int]) -> None:
    print(f"\nexact answers with {budget.size} of {task.context} tokens; guessing gives {1 / task.values:.3f}\n")
    print("| policy | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | of the full cache |")
    print("| --- " * (len(seeds) + 3) + "|")
    full = fmean(table[FULL])
    for name, values in sorted(table.items(), key=lambda item: -fmean(item[1])):
        cells = " | ".join(f"{value:.3f}" for value in values)
        of_full = f"{100 * fmean(values) / full:.1f} %" if full else "-"
        print(f"| {name} | {cells} | {fmean(values):.3f} | {of_full} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.recall_experiment",
        description="Associative recall of a small decoder, trained from scratch, with bounded caches.",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--context", type=int, default=64, help="tokens of a context (default: 64)")
    parser.add_argument("--pairs", type=int, default=4, help="keys of a context (default: 4)")
    parser.add_argument("--reassigned", type=int, default=2, help="keys that get another value (default: 2)")
    parser.add_argument("--tail", type=int, default=20, help="symbols without meaning at its end (default: 20)")
    parser.add_argument("--share", type=float, default=0.25, help="M as a share of the context (default: 0.25)")
    parser.add_argument("--sinks", type=int, default=1, help="default: 1")
    parser.add_argument("--window", type=int, default=4, help="default: 4")
    parser.add_argument("--decoder-steps", type=int, default=3000, help="steps of the decoder at most (default: 3000)")
    parser.add_argument("--texts", type=int, default=64, help="contexts for future attention (default: 64)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over them (default: 10)")
    parser.add_argument("--distillation-steps", type=int, default=60, help="0 = future attention alone (default: 60)")
    parser.add_argument("--contexts", type=int, default=200, help="contexts of the comparison (default: 200)")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append records to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
