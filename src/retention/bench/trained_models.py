"""Time trained models side by side on the rows that their task is tested on.

All runs are loaded into one process and take turns on the same batches (A B C A B C ...), so that the times can be
compared. The first run is the reference, usually the dense model. Batches hold rows of similar length.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retention.bench.timing import Quantiles, speedup_quantiles, synchronizer, time_interleaved
from retention.data.batching import Batch
from retention.errors import DataError, RetentionError, require
from retention.experiment.checkpoints import read_checkpoint
from retention.experiment.config import loaded_config
from retention.experiment.parts import build_parts
from retention.experiment.run import resolve_tokenizer
from retention.experiment.stored import StoredTargets
from retention.models.retention_model import RetentionModel
from retention.records import Latency, append_record, build_record, read_records
from retention.trained.loading import load

_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def main(argv: Sequence[str] | None = None) -> int:
    """Time the models of finished runs; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="retention bench-models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, the reference first")
    parser.add_argument("--data", type=Path, help="folder with the task's test file (default: the hub)")
    parser.add_argument("--rows", type=int, default=256, help="test rows (default: 256)")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of a batch (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds over all batches (default: 7)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--record", type=Path, help="JSON Lines file that the result is appended to")
    arguments = parser.parse_args(words)
    try:
        started = time.perf_counter()
        result = measure_latency(
            arguments.runs,
            data_dir=arguments.data,
            rows=arguments.rows,
            batch_size=arguments.batch_size,
            rounds=arguments.rounds,
            device=arguments.device,
        )
        print(format_latency(result))
        if arguments.record is not None:
            config = {key: _plain(value) for key, value in vars(arguments).items() if key != "record"}
            wall_s = time.perf_counter() - started
            command = ["retention", "bench-models", *words]
            append_record(arguments.record, build_record(result, config=config, seed=0, wall_s=wall_s, argv=command))
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def measure_latency(
    runs: Sequence[Path],
    *,
    data_dir: Path | None = None,
    rows: int = 256,
    batch_size: int = 16,
    rounds: int = 7,
    device: str = "cpu",
) -> Latency:
    """Time the models of finished runs on test rows of the first run's task.

    Args:
        runs: run folders, the reference first.
        data_dir: folder with the task's test file; None = the hub.
        rows: number of test rows, >= 1.
        batch_size: rows of a batch, >= 1.
        rounds: timed rounds, >= 1; one more is run before them.
        device: where the models run.

    Raises:
        ConfigError: a number is out of range.
        CheckpointError: a run cannot be loaded.
        DataError: the data cannot be read, or a run has no record.
    """
    for key, value in {"--rows": rows, "--batch-size": batch_size, "--rounds": rounds}.items():
        require(value >= 1, key, f"must be >= 1, got {value}")
    batches, description = _test_batches(runs[0], data_dir, rows, batch_size)
    models = {str(run): load(run, device=device).model for run in runs}
    on_device = [_to(batch, device) for batch in batches]
    calls = {name: [partial(_forward, model, batch) for batch in on_device] for name, model in models.items()}

    def progress(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\rround {done} of {total}", end=end, file=sys.stderr, flush=True)

    seconds = time_interleaved(calls, rounds=rounds, warmup=1, synchronize=synchronizer(device), on_round_end=progress)
    count = sum(len(batch["input_ids"]) for batch in batches)
    reference = seconds[str(runs[0])]
    results = []
    for run in runs:
        times = seconds[str(run)]
        milliseconds = Quantiles.of([1000.0 * value / count for value in times])
        entry = {"ms_per_row": milliseconds.as_dict(), "speedup": speedup_quantiles(reference, times).as_dict()}
        results.append({**_identity(run), **entry})
    return Latency(
        task=description["name"],
        data={**description, "rows": count},
        device=device,
        dtype="float32",
        threads=torch.get_num_threads(),
        batch=batch_size,
        rounds=rounds,
        models=results,
    )


def format_latency(result: Latency) -> str:
    """Format the result as aligned text, one line per model."""
    lines = [
        f"{'model':44} {'FLOPs ratio':>11} {result.models[0]['monitor']:>10} {'ms/row':>8} {'speedup':>8}  10-90 %"
    ]
    for model in result.models:
        layers = "" if model["layers"] is None else f", layers {model['layers']}"
        name = f"{model['policy']} {model['rho']:g}{layers}, seed {model['seed']}"
        speed = model["speedup"]
        lines.append(
            f"{name:44} {100 * model['flops_ratio']:10.1f}% {100 * model['metric']:10.1f} "
            f"{model['ms_per_row']['median']:8.2f} {speed['median']:7.2f}x  {speed['low']:.2f}-{speed['high']:.2f}"
        )
    return "\n".join(lines)


def _forward(model: RetentionModel, batch: Batch) -> None:
    with torch.inference_mode():
        model(batch)


def _test_batches(run: Path, data_dir: Path | None, rows: int, batch_size: int) -> tuple[list[Batch], dict[str, Any]]:
    """Read and encode test rows of a run's task."""
    checkpoint = run / _CHECKPOINT
    config = loaded_config(read_checkpoint(checkpoint), checkpoint)
    config.data.dir = None if data_dir is None else str(data_dir)
    config.data.test_size = rows
    config.task.data.eval_batch_size = batch_size
    parts = build_parts(config, StoredTargets())
    parts.data.attach(resolve_tokenizer(parts))
    parts.data.setup("test")
    return list(parts.data.test_dataloader()), parts.data.describe()


def _to(batch: Batch, device: str) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _identity(run: Path) -> dict[str, Any]:
    """Return method, keep ratio, layers, seed and quality of a run, from its record."""
    file = run / "record.json"
    if not file.is_file():
        raise DataError(f"{file}: missing; time finished runs only")
    [record] = read_records([file])
    backbone = record["config"].get("trained_backbone", record["config"]["backbone"])
    return {
        "run": run.name,
        **{key: record[key] for key in ("policy", "rho", "seed", "flops_ratio", "monitor")},
        "layers": backbone.get("layers"),
        "saliency": record["config"]["distill"]["saliency"],
        "metric": record["metrics"][record["monitor"]],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
