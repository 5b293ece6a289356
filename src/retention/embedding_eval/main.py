r"""Evaluate embedding models: quality on three benchmarks, speed, and agreement with the first (dense) model.

    retention evaluate-embeddings --models dense=<folder> ours=<folder> --rho 0.5 0.3 0.1 \
        --stsb <folder> --cranfield <folder> --newsgroups <folder> --split validation --record results/embedding/x.jsonl
    retention evaluate-embeddings --table results/embedding/*.jsonl

Measures are those of MTEB: Spearman correlation of the cosine (STS Benchmark), nDCG@10 of exact search (Cranfield or
another collection in the layout of BEIR), and accuracy of classifiers on frozen embeddings (20 Newsgroups). Choose
settings with --split validation: validation pairs of STS-B, the first 50 queries, and posts held out of train. A data
set is a folder, or hub:<id> (hub:mteb/stsbenchmark-sts, hub:BeIR/scifact, hub:SetFit/20_newsgroups). The first model
is the reference of all differences, FLOPs ratios and times.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retention.data.local_files import read_file
from retention.data.sources import Source
from retention.embedding_eval.classification import TextClassification
from retention.embedding_eval.evaluate import HeldOutTexts, Outcome, Variant, evaluate_variants
from retention.embedding_eval.latency import time_variants
from retention.embedding_eval.retrieval import Retrieval
from retention.embedding_eval.scores import Benchmark
from retention.embedding_eval.similarity import SentenceSimilarity
from retention.embedding_eval.table import embedding_table
from retention.errors import RetentionError, option_names, require, require_number
from retention.models.precision import PRECISIONS, in_precision
from retention.pretrained import Embedder
from retention.records import Embedding, append_record, build_record, read_records, write_records
from retention.tasks.reranking.collection import read_collection

_HUB = "hub:"
_DATA = "data.dir"  # key of the folder of the data in a configuration
SPLITS = ("validation", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate models, or print the table of records; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    try:
        if arguments.table is not None:
            print(embedding_table(read_records(arguments.table)), end="")
        else:
            _evaluate(arguments, words)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retention evaluate-embeddings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME=FOLDER", help="models, the reference first")
    parser.add_argument("--rho", nargs="+", type=float, help="keep ratios of models that remove tokens")
    parser.add_argument("--stsb", help="STS Benchmark")
    parser.add_argument("--cranfield", help="Cranfield, or another collection in the layout of BEIR")
    parser.add_argument("--newsgroups", help="20 Newsgroups, or other texts with classes (text, label)")
    parser.add_argument("--texts", type=Path, help="file of texts (column --text-column) to compare embeddings on")
    parser.add_argument("--text-column", default="text", help="column of --texts (default: text)")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="rows to score (default: validation)")
    parser.add_argument(
        "--validation-queries",
        type=int,
        default=50,
        help="queries of validation, the first ones; the others are for test (default: 50)",
    )
    parser.add_argument("--train-texts", type=int, default=1000, help="texts that a classifier learns from")
    parser.add_argument("--eval-texts", type=int, default=1000, help="texts that are classified")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the texts to learn from")
    parser.add_argument("--batch-size", type=int, default=32, help="texts of a forward pass (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; 0 = no timing (default: 5)")
    parser.add_argument("--timed-documents", type=int, default=256, help="documents of a round (default: 256)")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=["float32"],
        help="number formats that every model is evaluated in; the reference is the first model in the first of them "
        "(default: float32)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--record", type=Path, help="JSON Lines file that the results are appended to")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of these files of records instead")
    return parser


def _evaluate(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    started = time.perf_counter()
    _check(arguments)
    benchmarks = load_benchmarks(arguments)
    variants = load_variants(arguments.models, arguments.rho, arguments.device, arguments.precisions)
    outcomes = evaluate_variants(variants, benchmarks, batch_size=arguments.batch_size, on_progress=_print_progress)
    speeds: list[dict[str, Any] | None] = [None] * len(variants)
    if arguments.rounds:
        documents = _timed_documents(benchmarks, arguments.timed_documents)
        settings = {"batch_size": arguments.batch_size, "rounds": arguments.rounds, "device": arguments.device}
        speeds = [*time_variants(variants, documents, **settings)]
    config = {key: _plain(value) for key, value in vars(arguments).items() if key not in ("record", "table")}
    records = []
    for outcome, speed in zip(outcomes, speeds, strict=True):
        result = _result(outcome, outcomes[0], benchmarks, speed, arguments)
        wall_s = time.perf_counter() - started
        command = ["retention", "evaluate-embeddings", *words]
        records.append(build_record(result, config=config, seed=arguments.seeds[0], wall_s=wall_s, argv=command))
    print(embedding_table(records), end="")
    if arguments.record is not None:
        for outcome, record in zip(outcomes, records, strict=True):
            write_records(arguments.record.parent / record["rows"], outcome.rows())
            append_record(arguments.record, record)


def _check(arguments: argparse.Namespace) -> None:
    require(bool(arguments.models), "--models", "give at least one NAME=FOLDER, the reference first")
    counts = ("train_texts", "eval_texts", "batch_size", "timed_documents")
    for key in counts:
        name = f"--{key.replace('_', '-')}"
        require(getattr(arguments, key) >= 1, name, f"must be >= 1, got {getattr(arguments, key)}")
    for key in ("rounds", "validation_queries"):
        name = f"--{key.replace('_', '-')}"
        require(getattr(arguments, key) >= 0, name, f"must be >= 0, got {getattr(arguments, key)}")
    for rho in arguments.rho or ():
        require_number("--rho", rho, above=0, high=1, name="the target keep ratio")


def load_benchmarks(arguments: argparse.Namespace) -> list[Benchmark]:
    """Read the benchmarks that the arguments name.

    Raises:
        ConfigError: no benchmark is named.
        DataError: a file cannot be read.
    """
    split = arguments.split
    benchmarks: list[Benchmark] = []
    if arguments.stsb is not None:
        with option_names({_DATA: "--stsb"}):
            benchmarks.append(SentenceSimilarity(_source(arguments.stsb), split))
    if arguments.cranfield is not None:
        source = _source(arguments.cranfield)
        count = arguments.validation_queries
        queries = (0, count) if split == "validation" else (count, None)
        with option_names({_DATA: "--cranfield"}):
            collection = read_collection(source.dir, source.hub)
        name = "cranfield" if source.dir is not None else _short_name(arguments.cranfield)
        benchmarks.append(Retrieval(name, collection, source.describe(arguments.cranfield), queries))
    if arguments.newsgroups is not None:
        sizes = {"train_size": arguments.train_texts, "eval_size": arguments.eval_texts, "seeds": arguments.seeds}
        with option_names({_DATA: "--newsgroups"}):
            benchmarks.append(TextClassification("newsgroups", _source(arguments.newsgroups), split, **sizes))
    if arguments.texts is not None:
        table = read_file(arguments.texts, {"--text-column": arguments.text_column})
        benchmarks.append(HeldOutTexts(table.texts(arguments.text_column), arguments.texts.name))
    require(bool(benchmarks), "--stsb", "give at least one of --stsb, --cranfield, --newsgroups and --texts")
    return benchmarks


def load_variants(
    models: Sequence[str],
    rhos: Sequence[float] | None,
    device: str = "cpu",
    precisions: Sequence[str] = ("float32",),
) -> list[Variant]:
    """Load models; each gives one variant per number format and, if it removes tokens, per keep ratio.

    Args:
        models: ``NAME=FOLDER``, each name once.
        rhos: keep ratios; None = the one that each model was saved with.
        device: device of the models.
        precisions: number formats, see ``retention.models.precision``.

    Raises:
        ConfigError: an entry is malformed, or a name occurs twice.
        CheckpointError: a folder cannot be loaded.
    """
    variants: dict[str, Variant] = {}
    for entry in models:
        name, mark, folder = entry.partition("=")
        valid = re.fullmatch(r"[\w.-]+", name) is not None and bool(mark and folder)
        message = f"must be NAME=FOLDER with a name of letters, digits, '_', '-' or '.', got {entry!r}"
        require(valid, "--models", message)
        loaded = Embedder.from_pretrained(folder, device=device)
        for precision in precisions:
            model = in_precision(loaded, precision)
            for rho in (rhos or [model.encoder.default_rho]) if model.encoder.gated_layers else [None]:
                variant = Variant(name, model, rho, precision)
                repeated = f"{variant.label} occurs twice; give different names"
                require(variant.label not in variants, "--models", repeated)
                variants[variant.label] = variant
    return list(variants.values())


def _source(given: str) -> Source:
    return Source(None, {"path": given.removeprefix(_HUB)}) if given.startswith(_HUB) else Source(given, None)


def _short_name(given: str) -> str:
    return given.rpartition("/")[2].replace("-", "_")


def _timed_documents(benchmarks: Sequence[Benchmark], count: int) -> list[str]:
    """Return evenly spaced texts of the last benchmark: held-out texts, posts, documents, or sentences."""
    last = benchmarks[-1]
    documents = getattr(last, "documents", last.texts)
    count = min(count, len(documents))
    return [documents[number * len(documents) // count] for number in range(count)]


def _result(
    outcome: Outcome,
    reference: Outcome,
    benchmarks: Sequence[Benchmark],
    speed: dict[str, Any] | None,
    arguments: argparse.Namespace,
) -> Embedding:
    variant, encoder = outcome.variant, outcome.variant.model.encoder
    differences = outcome.differences(reference, benchmarks)
    name = f"{variant.label}-{arguments.split}"
    return Embedding(
        model=variant.name,
        reference=reference.variant.label,
        policy=encoder.policy.name if encoder.gated_layers else "dense",
        layers=encoder.shape.num_layers,
        rho=1.0 if variant.rho is None else variant.rho,
        precision=variant.precision,
        keep_ratio={name: costs.keep_ratio for name, costs in outcome.costs.items()},
        flops_ratio=outcome.flops_ratio(reference),
        split=arguments.split,
        data={benchmark.name: benchmark.describe() for benchmark in benchmarks},
        metrics=outcome.metrics(),
        differences={
            name: {"mean": value.mean, "low": value.low, "high": value.high, "rows": value.count}
            for name, value in differences.items()
        },
        speed=speed,
        rows=None if arguments.record is None else _rows_file(arguments.record, name),
    )


def _rows_file(record: Path, name: str) -> str:
    """Return the path of a new file for rows, relative to the folder of the file of records."""
    number, relative = 1, f"{record.stem}.rows/{name}.jsonl"
    while (record.parent / relative).exists():  # rows of an earlier record stay as they are
        number += 1
        relative = f"{record.stem}.rows/{name}-{number}.jsonl"
    return relative


def _print_progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
