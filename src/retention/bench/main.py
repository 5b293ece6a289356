"""Measure how fast an encoder with token removal is, compared with the fastest dense one.

All variants run in one process on the same batches, in turn (A B C A B C ...). A speedup is the median of the ratios
dense / variant taken round by round, with the 10th and 90th percentile. The dense variants are the model with each of
its attention implementations on length-bucketed batches. Real data add the model on sequences padded to the full length
and on sequences concatenated without padding (on CUDA in every case, where the family supports it); --compile adds
torch.compile. The fastest of them is the baseline. A dense variant that cannot run on this machine is left out, and the
reason is printed. `ideal` is the ratio of FLOPs on the real tokens of these batches.

For training steps the table also shows the activations saved for the backward pass, in MiB, without weights, gradients,
optimizer state and libraries, which token removal cannot change.

Policies are newly initialized. The number of tokens that are kept depends on the budget alone, so random scores take
the same time as trained ones (`threshold`, whose counts follow the scores, is the exception).

Without arguments: random weights of MiniLM's shape on random ids, which needs no download.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from retention.bench.case import measure_case
from retention.bench.plan import BenchPlan, build_plan
from retention.bench.report import build_records, format_table
from retention.bench.settings import DEVICES, DTYPES, PHASES, SHAPES, BenchSettings
from retention.errors import RetentionError, option_names
from retention.experiment.hydra_setup import config_dir
from retention.experiment.listed_ratios import mean_of_list
from retention.records import append_record

# Keys of the configuration that have an option of their own; the others can be given by --set.
_OPTIONS = {
    "retention.rho": "--rho",
    "retention.schedule": "--schedule",
    "retention.slope": "--slope",
    "prune_at": "--prune-at",
    "backbone.path": "--path",
    "data.dir": "--data",
    "task.data.dir": "--data",
}

EXAMPLES = """examples:
  retention bench --shape distilbert --length 256 512 --batch 32
  retention bench --backbone minilm --task imdb --length 256 512 --batch 16 --batches 8 --rounds 20 --memory
  retention bench --path <checkpoint folder> --task imdb --data <folder with test.parquet> --rho 0.3
  retention bench --phase train --backbone minilm --set backbone.attention_dropout=0
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    default = BenchSettings(conf=config_dir())
    parser = argparse.ArgumentParser(
        prog="retention bench",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("what runs").add_argument
    add("--phase", default=default.phase, help=f"{' | '.join(PHASES)}; train = forward, backward, AdamW")
    add("--policy", nargs="+", default=default.policies, help="names of retention policies")
    rhos = " ".join(map(str, default.rhos))
    add("--rho", nargs="+", type=float, help=f"target keep ratios, in (0, 1] (default: {rhos}, or that of a schedule)")
    add("--schedule", nargs="+", type=_number_or_name, help="of the budget: a name, or a keep ratio per gated layer")
    add("--slope", type=float, help="of the linear schedule, in [0, 1]")
    add("--prune-at", nargs="+", default=default.prune_points, help="after_layer, after_attention or both")
    add("--compile", action="store_true", help="measure the dense model with torch.compile as well")
    add("--set", nargs="+", default=(), metavar="KEY=VALUE", help="other settings of the configuration")
    add = parser.add_argument_group("encoder").add_argument
    add("--backbone", help="name of a file in conf/backbone, or a yaml file")
    add("--path", help="checkpoint folder or hub id; replaces the backbone's own")
    add("--shape", help=f"random weights: {' | '.join(SHAPES)} (default: minilm)")
    add = parser.add_argument_group("inputs").add_argument
    add("--task", help="name of a file in conf/task: its test data, in batches of similar length")
    add("--data", help="local folder with the task's files")
    add("--synthetic", action="store_true", help="random ids of exactly the length (default)")
    add("--length", nargs="+", type=int, default=default.lengths, help="maximum tokens per sequence")
    add("--batch", nargs="+", type=int, default=default.batch_sizes, help="sequences per batch")
    add("--batches", type=int, default=default.batches, help="number of batches, evenly spaced over the test data")
    add = parser.add_argument_group("measurement").add_argument
    add("--rounds", type=int, default=default.rounds, help="timed rounds over all batches")
    add("--warmup", type=int, default=default.warmup, help="rounds before them")
    add("--threads", type=int, help="PyTorch threads (default: chosen by PyTorch)")
    add("--device", default=_default_device(), help=f"{' | '.join(DEVICES)} (default here: %(default)s)")
    add("--dtype", default=default.dtype, help=f"{' | '.join(DTYPES)}; training: autocast")
    add("--memory", action="store_true", help="measure peak memory as well, every variant in its own process")
    add("--seed", type=int, default=default.seed)
    add("--name", help="name of the record file in results/speed (default: <backbone>_<task>)")
    add("--record", type=Path, help="JSON Lines file to append to, instead of one in results/speed")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every length and batch size, and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(arguments)
    try:
        with option_names(_OPTIONS):
            target = _measure(options, arguments)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    _log(f"records appended to {os.path.relpath(target)}")
    return 0


def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> Path:
    """Measure, print and record all cases; return the file of the records."""
    plan = build_plan(_settings(options))
    if plan.settings.threads is not None:
        torch.set_num_threads(plan.settings.threads)
    target = options.record or _record_path(options.name, plan)
    for length in plan.settings.lengths:
        for batch_size in plan.settings.batch_sizes:
            case = measure_case(plan, length, batch_size, memory=options.memory, log=_log)
            print(format_table(plan, case), flush=True)
            for record in build_records(plan, case, ["retention", "bench", *arguments]):
                append_record(target, record)
    return Path(target)


def _settings(options: argparse.Namespace) -> BenchSettings:
    schedule = options.schedule
    if schedule is not None:
        schedule = schedule[0] if len(schedule) == 1 and isinstance(schedule[0], str) else tuple(schedule)
    mean = mean_of_list(schedule)
    return BenchSettings(
        conf=config_dir(),
        phase=options.phase,
        task=options.task,
        data=options.data,
        synthetic=options.synthetic,
        lengths=tuple(options.length),
        batch_sizes=tuple(options.batch),
        batches=options.batches,
        backbone=options.backbone,
        path=options.path,
        shape=options.shape,
        policies=tuple(options.policy),
        rhos=tuple(options.rho or (BenchSettings.rhos if mean is None else [mean])),
        schedule=schedule,
        slope=options.slope,
        prune_points=tuple(options.prune_at),
        sets=tuple(options.set),
        rounds=options.rounds,
        warmup=options.warmup,
        threads=options.threads,
        device=options.device,
        dtype=options.dtype,
        compiled=options.compile,
        seed=options.seed,
    )


def _record_path(name: str | None, plan: BenchPlan) -> Path:
    stem = name or f"{plan.backbone.name}_{plan.settings.task or 'synthetic'}"
    return Path("results/speed") / f"{stem}.jsonl"


def _number_or_name(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
