"""Measure how fast an encoder with retention is beside the fastest dense one.

All variants run in one process on the same batches, in turn (A B C A B C ...); a speed-up is the median of the ratios
dense / variant taken round by round, with the 10th and 90th percentile. The dense rivals are the model with each of
its attention implementations, on length-bucketed batches; on real texts also with every text padded to the full length,
and with the texts laid end to end without padding (on CUDA in every case, where the family has it); and with --compile
through torch.compile. The fastest of them is the baseline; one that cannot run here is left out and named with the
reason. `ideal` is the ratio of FLOPs on the real tokens of these batches.

A training step also says how much it keeps for its backward pass: bytes of saved activations, without weights,
gradients, optimiser and libraries, which are all of a process's memory that removal cannot change.

Policies are freshly initialised: how many tokens go on after a layer depends on the budget alone, so random scores
take the same time as trained ones (`threshold`, whose counts follow the scores, is the exception).

Without arguments: random weights of MiniLM's shape on random ids, which needs no download.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from retention.bench.case import measure
from retention.bench.plan import Plan, make_plan
from retention.bench.report import records, table
from retention.bench.settings import DEVICES, DTYPES, PHASES, SHAPES, Settings
from retention.errors import RetentionError
from retention.records import append_record

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = """examples:
  python scripts/bench.py --shape distilbert --length 256 512 --batch 32
  python scripts/bench.py --backbone minilm --task imdb --length 256 512 --batch 16 --batches 8 --rounds 20 --memory
  python scripts/bench.py --path <checkpoint folder> --task imdb --data <folder with test.parquet> --rho 0.3
  python scripts/bench.py --phase train --backbone minilm --set backbone.attention_dropout=0
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    default = Settings(conf=ROOT / "conf")
    words = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = words.add_argument_group("what runs")
    what.add_argument("--phase", default=default.phase, help=f"{' | '.join(PHASES)}; train = forward, backward, AdamW")
    what.add_argument("--policy", nargs="+", default=default.policies, help="names of files in conf/retention")
    what.add_argument("--rho", nargs="+", type=float, default=default.rhos, help="shares of tokens to keep, in (0, 1]")
    what.add_argument("--schedule", nargs="+", type=_share_or_name, help="of the budget: a name, or a share per gate")
    what.add_argument("--slope", type=float, help="of the linear schedule, in [0, 1]")
    what.add_argument(
        "--prune-at", nargs="+", default=default.prune_points, help="after_layer, after_attention or both"
    )
    what.add_argument("--compile", action="store_true", help="let the dense model also run through torch.compile")
    what.add_argument("--set", nargs="+", default=(), metavar="KEY=VALUE", help="other settings of conf/")
    encoder = words.add_argument_group("encoder")
    encoder.add_argument("--backbone", help="name of a file in conf/backbone, or a yaml file")
    encoder.add_argument("--path", help="checkpoint folder or hub id; replaces the backbone's own")
    encoder.add_argument("--shape", help=f"random weights: {' | '.join(SHAPES)} (default: minilm)")
    texts = words.add_argument_group("inputs")
    texts.add_argument("--task", help="name of a file in conf/task: its test texts, in batches of similar length")
    texts.add_argument("--data", help="local folder with the task's files")
    texts.add_argument("--synthetic", action="store_true", help="random ids of exactly the length (default)")
    texts.add_argument("--length", nargs="+", type=int, default=default.lengths, help="tokens per text at most")
    texts.add_argument("--batch", nargs="+", type=int, default=default.batch_sizes, help="texts per batch")
    texts.add_argument("--batches", type=int, default=default.batches, help="batches, evenly spread over the test set")
    how = words.add_argument_group("how")
    how.add_argument("--rounds", type=int, default=default.rounds, help="timed rounds over all batches")
    how.add_argument("--warmup", type=int, default=default.warmup, help="rounds before them")
    how.add_argument("--threads", type=int, help="of PyTorch (default: its own choice)")
    how.add_argument("--device", default=_device(), help=f"{' | '.join(DEVICES)} (default here: %(default)s)")
    how.add_argument("--dtype", default=default.dtype, help=f"{' | '.join(DTYPES)}; training: autocast")
    how.add_argument("--memory", action="store_true", help="also peak memory, every variant in a process of its own")
    how.add_argument("--seed", type=int, default=default.seed)
    how.add_argument("--name", help="of the record file in results/speed (default: <backbone>_<task>)")
    how.add_argument("--record", type=Path, help="JSON Lines file to append to, instead of one in results/speed")
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every length and batch size; returns the exit status."""
    typed = list(sys.argv[1:] if argv is None else argv)
    words = parser().parse_args(typed)
    try:
        plan = make_plan(_settings(words))
        if plan.settings.threads is not None:
            torch.set_num_threads(plan.settings.threads)
        target = words.record or _record_path(words.name, plan)
        for length in plan.settings.lengths:
            for batch_size in plan.settings.batch_sizes:
                case = measure(plan, length, batch_size, memory=words.memory, tell=_tell)
                print(table(plan, case), flush=True)
                for record in records(plan, case, ["scripts/bench.py", *typed]):
                    append_record(target, record)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    _tell(f"records appended to {os.path.relpath(target)}")
    return 0


def _settings(words: argparse.Namespace) -> Settings:
    schedule = words.schedule
    if schedule is not None:
        schedule = schedule[0] if len(schedule) == 1 and isinstance(schedule[0], str) else tuple(schedule)
    return Settings(
        conf=ROOT / "conf",
        phase=words.phase,
        task=words.task,
        data=words.data,
        synthetic=words.synthetic,
        lengths=tuple(words.length),
        batch_sizes=tuple(words.batch),
        batches=words.batches,
        backbone=words.backbone,
        path=words.path,
        shape=words.shape,
        policies=tuple(words.policy),
        rhos=tuple(words.rho),
        schedule=schedule,
        slope=words.slope,
        prune_points=tuple(words.prune_at),
        sets=tuple(words.set),
        rounds=words.rounds,
        warmup=words.warmup,
        threads=words.threads,
        device=words.device,
        dtype=words.dtype,
        compiled=words.compile,
        seed=words.seed,
    )


def _record_path(name: str | None, plan: Plan) -> Path:
    stem = name or f"{plan.backbone.name}_{plan.settings.task or 'synthetic'}"
    return ROOT / "results" / "speed" / f"{stem}.jsonl"


def _share_or_name(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
