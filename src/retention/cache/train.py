"""Train the scorers of a bounded cache from the command line: ``python -m retention.cache.train``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from retention.cache.budget import CacheBudget
from retention.cache.command import exit_code, load_decoder, load_tokenizer
from retention.cache.distillation import (
    BankGates,
    DistillationExample,
    DistillationSettings,
    DistillationStep,
    distill_scores,
    divergence,
)
from retention.cache.families import HeadCounts
from retention.cache.lora import LoraAdapters
from retention.cache.policies.learned import LearnedScores
from retention.cache.targets import TargetSettings, collect_example
from retention.cache.texts import encode_texts
from retention.cache.training import LOSSES, TrainingSettings, pairwise_accuracy, train_scores
from retention.core.scorer import SCORERS, ScorerConfig
from retention.errors import require

DISTILLATION = "distillation"
# arguments that are stored with the scorers
ORIGIN = ("length", "loss", "epochs", "lr", "sinks", "window", "precision", "seed")
DISTILLATION_ORIGIN = ("size", "hard_share", "lora")
PRECISIONS = ("float32", "bfloat16")
_PROGRESS_STEPS = 10
T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write the scorers to one file; return the exit code."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    distills = arguments.loss == DISTILLATION
    require(distills or arguments.lora is None, "--lora", "is for --loss distillation; other losses train scorers only")
    folder = _adapter_folder(arguments.output)
    message = f"the folder of the adapters, {folder}, exists; choose another --output or remove it"
    require(arguments.lora is None or not folder.exists(), "--output", message)
    tokenizer = load_tokenizer(arguments.model)
    model = load_decoder(arguments.model, None if distills else "eager")
    torch.manual_seed(arguments.seed)
    policy = _scorers(model, arguments)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=arguments.precision == "bfloat16"):
        tokens = (_distill if distills else _rank)(model, tokenizer, policy, arguments)
    policy.origin = _origin(policy, arguments, tokens)
    policy.save(arguments.output)
    print(f"written: {arguments.output}")


def _scorers(model: nn.Module, arguments: argparse.Namespace) -> LearnedScores:
    """Load the scorers to start from, or build new ones."""
    if arguments.init is not None:
        policy = LearnedScores.load(arguments.init)
        policy.check(model.config)
        message = f"{arguments.init} has {policy.heads} scores per token and layer"
        heads = HeadCounts.of(model.config).key_value if arguments.per_head else 1
        require(policy.heads == heads, "--per-head", f"must be as the scorers of --init: {message}")
        return policy
    config = ScorerConfig(
        scorer_kind=arguments.scorer, scorer_dim=arguments.scorer_dim, decay=arguments.decay, keep_bias=0.0
    )
    return LearnedScores.for_model(model, config, per_head=arguments.per_head)


def _rank(model: nn.Module, tokenizer: Any, policy: LearnedScores, arguments: argparse.Namespace) -> int:
    """Train by future attention; return the number of tokens of the training texts."""
    settings = TrainingSettings(loss=arguments.loss, epochs=arguments.epochs, lr=arguments.lr, seed=arguments.seed)
    target_settings = TargetSettings(sinks=arguments.sinks, window=arguments.window)
    texts = _texts(tokenizer, arguments, target_settings.shortest_text)
    start = time.perf_counter()
    per_head = policy.heads > 1
    examples = []
    for input_ids in texts:
        examples.append(collect_example(model, input_ids, target_settings, per_head=per_head))
        if len(examples) % _PROGRESS_STEPS == 0 or len(examples) == len(texts):
            print(f"targets of {len(examples)}/{len(texts)} texts: {time.perf_counter() - start:.0f} s", flush=True)
    training, validation = _split(examples, arguments.validation)
    start = time.perf_counter()
    losses = train_scores(policy, training, settings)
    print(f"loss by epoch: {', '.join(f'{loss:.4f}' for loss in losses)} ({time.perf_counter() - start:.0f} s)")
    if validation:
        print(f"pairs in the right order on {len(validation)} other texts: {pairwise_accuracy(policy, validation):.3f}")
    return sum(len(example.counted) for example in training)


def _distill(model: nn.Module, tokenizer: Any, policy: LearnedScores, arguments: argparse.Namespace) -> int:
    """Train through the decoder's loss; return the number of tokens of the training texts."""
    settings = DistillationSettings(
        epochs=arguments.epochs, lr=arguments.lr, hard_share=arguments.hard_share, seed=arguments.seed
    )
    budget = CacheBudget(size=arguments.size, sinks=arguments.sinks, window=arguments.window, per_head=policy.heads > 1)
    texts = _texts(tokenizer, arguments, budget.size + 1)
    training, validation = _split([DistillationExample.of_text(ids, budget) for ids in texts], arguments.validation)
    lora = None if arguments.lora is None else LoraAdapters.attach(model, arguments.lora)
    teacher: Callable[[], AbstractContextManager[Any]] = nullcontext if lora is None else lora.disabled

    def report(moment: str) -> None:
        if validation:
            loss = _validation_loss(model, policy, validation, budget, settings, teacher)
            print(f"KL on {len(validation)} other texts with eviction, {moment}: {loss:.4f}", flush=True)

    report("before")
    progress = _Progress()
    adapters = [] if lora is None else lora.parameters
    distill_scores(model, policy, training, budget, settings, adapters=adapters, teacher=teacher, on_step=progress.show)
    report("after")
    if lora is not None:
        folder = _adapter_folder(arguments.output)
        lora.save(folder, tokenizer)
        print(f"written: {folder}, the decoder for these scorers")
    return sum(example.input_ids.shape[1] for example in training)


class _Progress:
    """Print the mean of the last steps, and the time that is left."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._losses: list[float] = []

    def show(self, step: DistillationStep) -> None:
        """Print a line after every tenth step and after the last one."""
        self._losses.append(step.loss)
        if step.step % _PROGRESS_STEPS and step.step != step.steps:
            return
        left = (time.perf_counter() - self._start) / step.step * (step.steps - step.step)
        phase = "eviction" if step.hard else "soft gates"
        print(
            f"step {step.step}/{step.steps} ({phase}): KL {fmean(self._losses):.4f}, "
            f"{step.bank_tokens:.1f} tokens in the bank, {left:.0f} s left",
            flush=True,
        )
        self._losses.clear()


@torch.no_grad()
def _validation_loss(
    model: nn.Module,
    policy: LearnedScores,
    examples: Sequence[DistillationExample],
    budget: CacheBudget,
    settings: DistillationSettings,
    teacher: Callable[[], AbstractContextManager[Any]],
) -> float:
    gates = BankGates(budget, settings.gate, hard=True)
    return fmean(float(divergence(model, policy, example, gates, teacher)) for example in examples)


def _texts(tokenizer: Any, arguments: argparse.Namespace, shortest: int) -> list[Tensor]:
    limit = arguments.limit + arguments.validation
    return encode_texts(
        arguments.texts, tokenizer, field=arguments.field, limit=limit, shortest=shortest, longest=arguments.length
    )


def _split(examples: list[T], validation: int) -> tuple[list[T], list[T]]:
    """Return the examples for training and the last ones for validation; at least one is for training."""
    held_out = min(validation, len(examples) - 1)
    return examples[: len(examples) - held_out], examples[len(examples) - held_out :]


def _adapter_folder(output: Path) -> Path:
    return output.with_name(f"{output.stem}_lora")


def _origin(policy: LearnedScores, arguments: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """Return how the scorers were trained; those that training started from are described within."""
    names = (*ORIGIN, *DISTILLATION_ORIGIN) if arguments.loss == DISTILLATION else ORIGIN
    origin: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    config = policy.config
    origin |= {"scorer": config.scorer_kind, "scorer_dim": config.scorer_dim, "decay": config.decay}
    origin |= {"heads": policy.heads}
    origin |= {"model": Path(arguments.model).name, "texts": arguments.texts.name, "tokens": tokens}
    return origin if arguments.init is None else origin | {"init": policy.origin}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.train", description="Train the scorers of a bounded cache."
    )
    parser.add_argument("--model", required=True, help="folder or hub name of a decoder")
    parser.add_argument("--texts", required=True, type=Path, help=".txt (one text per line) or .jsonl")
    parser.add_argument("--output", required=True, type=Path, help=".safetensors file to write the scorers to")
    parser.add_argument("--init", type=Path, help=".safetensors file of scorers to start from; default: new scorers")
    parser.add_argument("--field", default="text", help="field of a .jsonl file (default: text)")
    parser.add_argument("--limit", type=int, default=24, help="texts to train on (default: 24)")
    parser.add_argument("--validation", type=int, default=2, help="further texts for validation (default: 2)")
    parser.add_argument("--length", type=int, default=512, help="tokens of a text at most (default: 512)")
    parser.add_argument("--scorer", choices=SCORERS, default="gated", help="kind of new scorers (default: gated)")
    parser.add_argument("--scorer-dim", type=int, default=32, help="width of the gated scorer (default: 32)")
    parser.add_argument("--decay", type=float, default=0.9, help="decay of the running summary (default: 0.9)")
    parser.add_argument("--per-head", action="store_true", help="one score per key-value head, for caches per head")
    parser.add_argument("--loss", choices=(*LOSSES, DISTILLATION), default="ranking", help="default: ranking")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    parser.add_argument("--lr", type=float, default=1e-3, help="default: 0.001")
    parser.add_argument("--sinks", type=int, default=4, help="default: 4")
    parser.add_argument("--window", type=int, default=16, help="default: 16")
    parser.add_argument("--size", type=int, default=96, help="tokens per layer, for distillation (default: 96)")
    parser.add_argument(
        "--hard-share", type=float, default=0.3, help="last share of the steps of distillation, with eviction"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="format that the decoder computes in; scorers stay in float32 (default: float32)",
    )
    parser.add_argument("--lora", type=int, metavar="RANK", help="train LoRA adapters too, by distillation; needs peft")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
