"""Compare runs on the same test rows, sample by sample."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from retention.errors import DataError, RetentionError
from retention.records import Paired, append_record, build_record
from retention.report.compared_runs import ComparedRuns, read_compared, read_rows
from retention.report.corpus_metrics import CORPUS_METRICS
from retention.report.intervals import Estimate, bootstrap_interval, bootstrap_metric_interval, estimate

_MIN_PROBABILITY = 1e-6  # smaller probabilities are stored as 0
_DESCRIPTION = """\
Compare runs on the same test rows: the mean difference of their row scores and its 95 % interval.

A run folder holds the score of every test row (predictions.jsonl). Pairing removes what makes some rows harder than
others for every model, so small test sets can separate runs that their two means cannot. The interval is a bootstrap
over training seeds and test rows; with one seed it covers the choice of the rows alone. Rows that belong to documents
(clauses of a contract, questions on an article) are resampled by document.

    retention compare outputs/arxiv/adaptive-0.3-seed0 outputs/arxiv/random-0.3-seed0
    retention compare <run> <run> <run> --record results/paired/arxiv.jsonl    (the first with each of the others)
    retention compare <run> <run> --reference <dense run>    (by divergence from its probabilities)
    retention compare 'q/adaptive-0.3-seed{seed}' 'q/dense-1.0-seed{seed}' --seeds 0 1 2
    retention compare <run> <run> --metric macro_f1    (a metric of the whole test set)
"""

ClassProbabilities = list[list[float]]  # of one row: one distribution over classes, or [yes, no] of every label


def compare_runs(first: Sequence[Path], second: Sequence[Path], references: Sequence[Path] | None = None) -> Paired:
    """Compare the row scores of two kinds of run, each trained with one or several seeds.

    Args:
        first: run folders with ``record.json`` and ``predictions.jsonl``, one per seed.
        second: the runs to compare with, in the same order.
        references: runs in the same order, usually dense ones; if given, a row's score is the divergence of its
            probabilities from the reference run's, which separates runs long before their accuracies do. See
            ``divergences``.

    Returns:
        The comparison. ``difference`` holds ``mean``, the interval ``bootstrap_low`` .. ``bootstrap_high`` over seeds
        and rows, and ``low`` .. ``high``, that over rows with the trained models held fixed: Student's t interval or,
        where several rows belong to one document, a bootstrap over documents.

    Raises:
        DataError: a file is missing or broken, the runs were tested on different rows, their rows have no score
            (with references: no probabilities), or the folders of several seeds do not match.
    """
    kinds = [first, second] if references is None else [first, second, references]
    read: Callable[[Path], dict[str, Any]] = row_scores if references is None else row_probabilities
    compared: ComparedRuns[Any] = read_compared(kinds, read)
    if references is None:
        scores = compared.rows
    else:
        scores = [[divergences(reference, run) for run in runs] for *runs, reference in compared.rows]
    names = compared.names
    table = [[left[name] - right[name] for name in names] for left, right in scores]
    differences = [fmean(column) for column in zip(*table, strict=True)]
    bootstrap = bootstrap_interval(table, documents=compared.documents)
    if compared.documents is None:
        fixed_models = estimate(differences)
    else:
        fixed_models = bootstrap_interval(table, documents=compared.documents, resample_seeds=False)
    score = [fmean(fmean(seed_scores[index].values()) for seed_scores in scores) for index in range(2)]
    gain = 1.0 if references is None else -1.0  # a smaller divergence is better
    return _paired(
        compared,
        "score" if references is None else "divergence",
        score,
        list(map(fmean, table)),
        fixed_models,
        bootstrap,
        signs=[gain * difference for difference in differences],
    )


def compare_metric(first: Sequence[Path], second: Sequence[Path], name: str) -> Paired:
    """Compare a metric of the whole test set, such as macro-F1, of two kinds of run.

    Args:
        first: run folders, one per seed.
        second: the runs to compare with, in the same order.
        name: of ``CORPUS_METRICS``.

    Returns:
        The comparison. ``difference`` holds ``mean``, the interval ``bootstrap_low`` .. ``bootstrap_high`` over seeds
        and rows, and ``low`` .. ``high``, that over rows with the trained models held fixed. No rows are counted as
        better or worse.

    Raises:
        DataError: as ``compare_runs``; or the metric is unknown.
    """
    if name not in CORPUS_METRICS:
        raise DataError(f"--metric: must be one of {', '.join(CORPUS_METRICS)}, got {name}")
    metric = CORPUS_METRICS[name]
    missing = f"which {name} is computed from; the task has another metric, or an older version wrote the file"
    read = partial(read_rows, keys=metric.keys, kind=metric.kinds, otherwise=missing)
    compared = read_compared([first, second], read)
    tables = [[rows[row] for row in compared.names] for runs in compared.rows for rows in runs]
    counts = metric.counts(tables)
    sides = [np.stack(counts[side::2]) for side in range(2)]  # each [seeds, rows, K]
    bootstrap, fixed_models = (
        bootstrap_metric_interval(
            sides[0], sides[1], metric.value, documents=compared.documents, resample_seeds=resample
        )
        for resample in (True, False)
    )
    by_seed = metric.value(sides[0].sum(1)) - metric.value(sides[1].sum(1))
    score = [float(metric.value(side.sum(1)).mean()) for side in sides]
    return _paired(compared, name, score, by_seed.tolist(), fixed_models, bootstrap)


def _paired(
    compared: ComparedRuns[Any],
    measure: str,
    scores: Sequence[float],
    by_seed: Sequence[float],
    fixed_models: Estimate,
    bootstrap: Estimate,
    signs: Sequence[float] = (),
) -> Paired:
    """Build the result of a comparison.

    Args:
        compared: the runs; the third kind, if there is one, is the reference.
        measure: what was compared.
        scores: of both kinds, means over the seeds.
        by_seed: difference of each seed.
        fixed_models: mean difference, and its interval with the trained models held fixed.
        bootstrap: the same with seeds resampled.
        signs: for each row a number that is positive where the first run is better; empty = no row is counted.
    """
    kinds = [compared.describe(kind) for kind in range(len(compared.records[0]))]
    return Paired(
        task=compared.task,
        data=compared.data,
        first={**kinds[0], "score": scores[0]},
        second={**kinds[1], "score": scores[1]},
        rows=len(compared.names),
        difference={
            "mean": fixed_models.mean,
            "low": fixed_models.low,
            "high": fixed_models.high,
            "bootstrap_low": bootstrap.low,
            "bootstrap_high": bootstrap.high,
        },
        better=sum(sign > 0 for sign in signs),
        worse=sum(sign < 0 for sign in signs),
        equal=sum(sign == 0 for sign in signs),
        measure=measure,
        reference=kinds[2] if len(kinds) > 2 else None,
        by_seed=tuple(by_seed) if len(by_seed) > 1 else None,
        documents=None if compared.documents is None else len(set(compared.documents)),
    )


def divergences(reference: Mapping[str, ClassProbabilities], run: Mapping[str, ClassProbabilities]) -> dict[str, float]:
    """Compute KL(reference || run) of every row in nats, >= 0, summed over the labels of the row."""
    return {
        name: sum(_divergence(*pair) for pair in zip(probabilities, run[name], strict=True))
        for name, probabilities in reference.items()
    }


def _divergence(target: Sequence[float], predicted: Sequence[float]) -> float:
    positive = ((max(p, _MIN_PROBABILITY), max(q, _MIN_PROBABILITY)) for p, q in zip(target, predicted, strict=True))
    return max(0.0, sum(p * log(p / q) for p, q in positive))


def row_scores(path: Path) -> dict[str, float]:
    """Read the score of every row, in [0, 1], by the name of the row.

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no score.
    """
    rows = read_rows(path, ["score"], (int, float), "this task is not scored row by row; compare its metrics")
    return {name: float(row["score"]) for name, row in rows.items()}


def row_probabilities(path: Path) -> dict[str, ClassProbabilities]:
    """Read the probabilities of every row: over its classes, or of each label where a row may have several.

    Raises:
        DataError: the file cannot be read, names a row twice, or its rows have no probabilities.
    """
    missing = "the task has none, or an older version wrote the file; test the model again"
    return {name: _class_probabilities(row) for name, row in read_rows(path, ["probabilities"], list, missing).items()}


def _class_probabilities(row: Mapping[str, Any]) -> ClassProbabilities:
    multilabel = isinstance(row.get("prediction"), list)
    return [[p, 1.0 - p] for p in row["probabilities"]] if multilabel else [row["probabilities"]]


def format_comparison(result: Paired) -> str:
    """Format a comparison in one line, in points or, for divergences, in nats."""
    scale, number, unit, words, source = 100, ".1f", "points", ("better", "worse", "equal"), ""
    if result.reference is not None:
        scale, number, unit, words = 1, ".4f", "nats", ("nearer", "farther", "equal")
        source = f", divergence from {_run_name(result.reference)}"
    first, second = (f"{_run_name(run)} {scale * run['score']:{number}}" for run in (result.first, result.second))
    mean, low, high = (result.difference.get(key) for key in ("mean", "bootstrap_low", "bootstrap_high"))
    interval = "" if low is None or high is None else f" [{scale * low:+{number}}, {scale * high:+{number}}]"
    values = zip((result.better, result.worse, result.equal), words, strict=True)
    counted = result.measure in ("score", "divergence")
    counts = f" ({', '.join(f'{count} {word}' for count, word in values)})" if counted else f", {result.measure}"
    documents = "" if result.documents is None else f" of {result.documents} documents"
    by_seed = ", ".join(f"{scale * difference:+{number}}" for difference in result.by_seed or ())
    return (
        f"{result.task}{source}: {first}, {second}: {scale * (mean or 0.0):+{number}}{interval} {unit} "
        f"on {result.rows} rows{documents}{counts}{', by seed ' * bool(by_seed)}{by_seed}"
    )


def _run_name(run: Mapping[str, Any]) -> str:
    seeds = run["seed"] if isinstance(run["seed"], list) else [run["seed"]]
    return f"{run['policy']} {run['rho']:g} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per comparison; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="retention compare", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("others", type=Path, nargs="+", help="run folders to compare it with")
    parser.add_argument("--reference", type=Path, help="run folder; compare divergences from it instead of scores")
    parser.add_argument("--metric", choices=sorted(CORPUS_METRICS), help="compare this metric instead of row scores")
    parser.add_argument("--seeds", type=int, nargs="+", help="compare over these seeds; folder names contain {seed}")
    parser.add_argument("--record", type=Path, help="JSON Lines file to append the results to")
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    if arguments.metric is not None and arguments.reference is not None:
        parser.error("--metric: not allowed with --reference; choose one of them")
    try:
        for other in arguments.others:
            started = time.perf_counter()
            reference = None if arguments.reference is None else _seed_folders(arguments.reference, arguments.seeds)
            run, baseline = (_seed_folders(folder, arguments.seeds) for folder in (arguments.run, other))
            if arguments.metric is None:
                result = compare_runs(run, baseline, reference)
            else:
                result = compare_metric(run, baseline, arguments.metric)
            print(format_comparison(result))
            if arguments.record is not None:
                reference_name = None if arguments.reference is None else arguments.reference.name
                record = build_record(
                    result,
                    config={"run": arguments.run.name, "other": other.name, "reference": reference_name},
                    seed=arguments.seeds[0] if arguments.seeds else int(result.first["seed"]),
                    wall_s=time.perf_counter() - started,
                    argv=["-m", "retention.report.paired_comparison", *words],
                )
                append_record(arguments.record, record)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _seed_folders(folder: Path, seeds: Sequence[int] | None) -> list[Path]:
    return [folder] if seeds is None else [Path(str(folder).replace("{seed}", str(seed))) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main())
