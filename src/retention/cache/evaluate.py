"""Compare cache policies at equal size on the same texts and questions: ``python -m retention.cache.evaluate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from retention.cache.budget import CacheBudget
from retention.cache.command import (
    add_cache_arguments,
    append_result,
    cache_budget,
    exit_code,
    load_decoder,
    load_tokenizer,
)
from retention.cache.comparison import Measure, Measurement, compare_policies
from retention.cache.evaluation import measure_losses
from retention.cache.policies.base import CachePolicy
from retention.cache.policies.named import POLICIES, build_policies
from retention.cache.question_answering import EncodedDocument, answer_documents, encode_document, read_documents
from retention.cache.recall import (
    RecallExample,
    exact_answers,
    needle_examples,
    recall_examples,
    tracking_examples,
)
from retention.cache.texts import encode_texts, read_texts
from retention.errors import require

# task -> field of the record that holds its main value
MAIN_FIELDS = {"text": "loss", "recall": "accuracy", "tracking": "accuracy", "needle": "accuracy", "qa": "f1"}
TASKS = tuple(MAIN_FIELDS)
_BASELINE = "random"
_HEADER = "| task | size | policy | {measure} | interval | minus {baseline} | interval | s |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table per task and size, and append a record of each row on request; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words)
    return exit_code(lambda: _run(arguments, words))


def _run(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    needs_texts = {"text", "needle"} & set(arguments.tasks)
    require(arguments.texts is not None or not needs_texts, "--texts", f"must be given for {', '.join(needs_texts)}")
    asks = "qa" in arguments.tasks
    message = "must be given for qa, and only for it: a .json or .json.gz file in SQuAD's layout"
    require(asks == (arguments.questions is not None), "--questions", message)
    message = f"must be in (0, 1] and given only with --tasks qa, got {arguments.shares}"
    require(all(0 < share <= 1 for share in arguments.shares) and (asks or not arguments.shares), "--shares", message)
    for size in [] if arguments.shares else arguments.sizes:
        cache_budget(size, arguments)  # reports options that do not fit before anything is loaded
    policies = build_policies(list(arguments.policies), arguments.scores, arguments.seed)
    message = f"must be one of the policies to compare, {', '.join(policies)}; got {arguments.baseline!r}"
    require(arguments.baseline in (None, *policies), "--baseline", message)
    arguments.baseline = arguments.baseline or _BASELINE
    tokenizer = load_tokenizer(arguments.model)
    model = load_decoder(arguments.model)
    inputs = {task: _inputs(task, arguments, tokenizer, model.config) for task in arguments.tasks}
    for task in arguments.tasks:
        if task == "qa":
            _compare_answers(model, tokenizer, inputs[task], policies, arguments, words)
            continue
        rows = inputs[task]
        measure: Measure = partial(measure_losses, model, rows) if task == "text" else _accuracy(model, tokenizer, rows)
        for size in arguments.sizes:
            _compare(task, cache_budget(size, arguments), policies, measure, model, arguments, words)


def _compare_answers(
    model: Any,
    tokenizer: Any,
    documents: Sequence[EncodedDocument],
    policies: dict[str, CachePolicy | None],
    arguments: argparse.Namespace,
    words: Sequence[str],
) -> None:
    """Compare answers to questions, at each share of the context, or else at each size."""
    lengths = [len(document.context) for document in documents]
    for share in arguments.shares:
        sizes = [max(1, round(share * length)) for length in lengths]
        budget = cache_budget(max(sizes), arguments)
        measure = _answer_score(model, tokenizer, documents, sizes, share, arguments)
        _compare("qa", budget, policies, measure, model, arguments, words, label=f"{100 * share:g} %")
    for size in [] if arguments.shares else arguments.sizes:
        measure = _answer_score(model, tokenizer, documents, [size] * len(documents), None, arguments)
        _compare("qa", cache_budget(size, arguments), policies, measure, model, arguments, words)


def _compare(
    task: str,
    budget: CacheBudget,
    policies: dict[str, CachePolicy | None],
    measure: Measure,
    model: Any,
    arguments: argparse.Namespace,
    words: Sequence[str],
    label: str | None = None,
) -> None:
    """Measure all policies on one task at one size, and print and record the results."""
    metric = MAIN_FIELDS[task]
    texts = {"qa": arguments.questions, "text": arguments.texts, "needle": arguments.texts}.get(task)
    print(_HEADER.format(measure=metric, baseline=arguments.baseline))
    print("| --- " * 8 + "|")
    for result in compare_policies(model, policies, budget, measure, arguments.baseline):
        value, gains = result.measurement.value, result.difference
        difference = "-" if gains is None else f"{gains.mean:+.4f}"
        cells = [task, label or str(budget.size), result.name, f"{value:.4f}", _range(result.interval)]
        cells += [difference, _range(gains), f"{result.seconds:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        if arguments.record is not None:
            names = {"model": Path(arguments.model).name, "texts": None if texts is None else texts.name}
            record = result.record(metric, task=task, **names)
            append_result(arguments, record, result.seconds, ["-m", "retention.cache.evaluate", *words])


def _inputs(task: str, arguments: argparse.Namespace, tokenizer: Any, config: Any) -> Any:
    """Return token ids of texts, or examples with questions."""
    if task == "text":
        return encode_texts(
            arguments.texts,
            tokenizer,
            field=arguments.field,
            limit=arguments.limit,
            skip=arguments.skip,
            shortest=max(arguments.min_length, *(size + 1 for size in arguments.sizes)),
            longest=arguments.length,
        )
    if task == "recall":
        return list(
            recall_examples(
                arguments.limit, pairs=arguments.pairs, reassigned=arguments.reassigned, seed=arguments.seed
            )
        )
    if task == "tracking":
        return list(
            tracking_examples(arguments.limit, chains=arguments.chains, hops=arguments.hops, seed=arguments.seed)
        )
    if task == "qa":
        documents = read_documents(
            arguments.questions, limit=arguments.limit, pairs=arguments.pairs, skip=arguments.skip
        )
        limit = getattr(config, "max_position_embeddings", None)
        positions = None if limit is None else limit - arguments.new_tokens
        return [encode_document(tokenizer, document, positions=positions) for document in documents]
    texts = list(read_texts(arguments.texts, arguments.field))[arguments.skip :]
    return list(needle_examples(texts, arguments.limit, words=arguments.words, seed=arguments.seed))


def _accuracy(model: Any, tokenizer: Any, examples: Sequence[RecallExample]) -> Measure:
    lengths = [len(tokenizer(example.context)["input_ids"]) for example in examples]
    questions = [len(example.questions) for example in examples]

    def measure(policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
        shares = exact_answers(model, tokenizer, examples, policy, budget)
        return Measurement(sum(shares) / len(shares), shares, lengths, questions)

    return measure


def _answer_score(
    model: Any,
    tokenizer: Any,
    documents: Sequence[EncodedDocument],
    sizes: Sequence[int],
    share: float | None,
    arguments: argparse.Namespace,
) -> Measure:
    def measure(policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
        budgets = [cache_budget(size, arguments) for size in sizes]
        scores = answer_documents(model, tokenizer, documents, policy, budgets, new_tokens=arguments.new_tokens)
        by_text, exact = [score.f1 for score in scores], [score.exact_match for score in scores]
        lengths = [len(document.context) for document in documents]
        questions = [len(document.questions) for document in documents]
        fields = {
            "share": share,
            "size_by_text": () if share is None else tuple(sizes),
            "accuracy": sum(exact) / len(exact),
            "accuracy_by_text": exact,
        }
        return Measurement(sum(by_text) / len(by_text), by_text, lengths, questions, fields)

    return measure


def _range(interval: Any) -> str:
    return "-" if interval is None or interval.low is None else f"[{interval.low:.4f}, {interval.high:.4f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m retention.cache.evaluate",
        description="Loss of the tokens predicted after the cache is full, and answers to questions.",
    )
    add_cache_arguments(parser)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["text"], help="default: text")
    parser.add_argument("--texts", type=Path, help=".txt (one text per line) or .jsonl; for text and needle")
    parser.add_argument("--field", default="text", help="field of a .jsonl file (default: text)")
    parser.add_argument("--questions", type=Path, help=".json or .json.gz in SQuAD's layout; for qa")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 96], help="tokens per layer (default: 48 96)")
    parser.add_argument("--shares", type=float, nargs="*", default=[], help="sizes of qa as shares of the context")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=POLICIES, help="default: all of them")
    parser.add_argument("--baseline", help=f"policy that others are compared with (default: {_BASELINE}, if measured)")
    parser.add_argument("--limit", type=int, default=4, help="number of texts, examples or documents (default: 4)")
    parser.add_argument("--skip", type=int, default=0, help="texts to leave out first (default: 0)")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a text at most (default: 1024)")
    parser.add_argument("--min-length", type=int, default=0, help="leave out texts with fewer tokens")
    parser.add_argument(
        "--pairs", type=int, default=20, help="names of a recall example, questions of a document (default: 20)"
    )
    parser.add_argument("--new-tokens", type=int, default=24, help="tokens of an answer at most, for qa (default: 24)")
    parser.add_argument("--reassigned", type=int, default=2, help="names that get another value (default: 2)")
    parser.add_argument("--chains", type=int, default=4, help="codes of a tracking example (default: 4)")
    parser.add_argument("--hops", type=int, default=2, help="how often each is handed on (default: 2)")
    parser.add_argument("--words", type=int, default=250, help="words of a needle example (default: 250)")
    parser.add_argument("--seed", type=int, default=0, help="of the random policy and the examples (default: 0)")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append a record of each row to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
