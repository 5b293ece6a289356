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
from retention.errors import DataError, RetentionError, option_names, require
from retention.experiment.assembly import resolve_tokenizer, use_trained_label_order
from retention.experiment.checkpoints import read_checkpoint
from retention.experiment.config import loaded_config
from retention.experiment.parts import build_parts
from retention.experiment.stored import StoredTargets
from retention.models.head import Columns
from retention.models.precision import in_precision
from retention.models.quantization import quantize_int8
from retention.models.retention_model import RetentionModel
from retention.records import Latency, Quality, Record, append_record, build_record, read_records
from retention.records.identity import PRUNE_AT, model_settings
from retention.records.run_folders import RECORD, VALIDATION_RECORD
from retention.trained.loading import load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CHECKPOINT = Path("checkpoints") / "last.ckpt"
# Configuration keys of a run that this command sets.
_OPTIONS = {
    "data.dir": "--data",
    "task.data.dir": "--data",
    "data.test_size": "--rows",
    "task.data.eval_batch_size": "--batch-size",
}


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
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format (default: float32)")
    parser.add_argument("--int8", action="store_true", help="time an INT8 copy of every model as well; on a CPU only")
    parser.add_argument("--record", type=Path, help="JSON Lines file that the result is appended to")
    arguments = parser.parse_args(words)
    try:
        started = time.perf_counter()
        with option_names(_OPTIONS):
            result = measure_latency(
                arguments.runs,
                data_dir=arguments.data,
                rows=arguments.rows,
                batch_size=arguments.batch_size,
                rounds=arguments.rounds,
                device=arguments.device,
                dtype=arguments.dtype,
                int8=arguments.int8,
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
    dtype: str = "float32",
    int8: bool = False,
) -> Latency:
    """Time the models of finished runs on test rows of the first run's task.

    Args:
        runs: run folders, the reference first.
        data_dir: folder with the task's test file; None = the hub.
        rows: number of test rows, >= 1.
        batch_size: rows of a batch, >= 1.
        rounds: timed rounds, >= 1; one more is run before them.
        device: where the models run.
        dtype: number format of weights and states, ``float32`` or ``bfloat16``; scorers compute in float32.
        int8: time a copy of every model with INT8 layers as well, see ``quantize_int8``. All entries then have
            ``int8`` and ``metric_on_rows``, the metric on the timed rows.

    Raises:
        ConfigError: a number is out of range, the number format is unknown, or INT8 is requested on a GPU or beside
            bfloat16.
        CheckpointError: a run cannot be loaded.
        DataError: the data cannot be read, or a run has no record.
    """
    for key, value in {"--rows": rows, "--batch-size": batch_size, "--rounds": rounds}.items():
        require(value >= 1, key, f"must be >= 1, got {value}")
    require(device == "cpu" or not int8, "--int8", f"needs --device cpu, got {device}")
    require(dtype in DTYPES, "--dtype", f"must be one of {', '.join(DTYPES)}, got {dtype}")
    require(dtype == "float32" or not int8, "--int8", f"needs --dtype float32, got {dtype}")
    _require_same_task(runs)
    batches, description = test_batches(runs[0], data_dir, rows, batch_size)
    models = {(run, False): _load(run, device, dtype) for run in runs}
    if int8:
        models = {key: each for run in runs for key, each in _with_int8(run, models[run, False]).items()}
    on_device = [_to(batch, device) for batch in batches]
    names = {key: f"{key[0]}{' int8' if key[1] else ''}" for key in models}
    calls = {names[key]: [partial(_forward, model, batch) for batch in on_device] for key, model in models.items()}

    def progress(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\rround {done} of {total}", end=end, file=sys.stderr, flush=True)

    seconds = time_interleaved(calls, rounds=rounds, warmup=1, synchronize=synchronizer(device), on_round_end=progress)
    count = sum(len(batch["input_ids"]) for batch in batches)
    reference = seconds[names[runs[0], False]]
    results = []
    for (run, is_int8), model in models.items():
        times = seconds[names[run, is_int8]]
        milliseconds = Quantiles.of([1000.0 * value / count for value in times])
        entry: dict[str, Any] = {
            "ms_per_row": milliseconds.as_dict(),
            "speedup": speedup_quantiles(reference, times).as_dict(),
        }
        identity = _identity(run)
        if int8:
            entry |= {"int8": is_int8, "metric_on_rows": _metric(model, on_device, identity["monitor"])}
        results.append({**identity, **entry})
    return Latency(
        task=description["name"],
        backbone=_record(runs[0])["backbone"],
        data={**description, "rows": count},
        device=device,
        dtype=dtype,
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
        int8 = ", int8" if model.get("int8") else ""
        pruned = "" if model["prune_at"] == PRUNE_AT else f" {model['prune_at'].replace('_', ' ')}"
        name = f"{model['policy']} {model['rho']:g}{pruned}{layers}, seed {model['seed']}{int8}"
        speed = model["speedup"]
        metric = model.get("metric_on_rows", model["metric"])
        score = f"{'-':>10}" if metric is None else f"{100 * metric:10.1f}"
        lines.append(
            f"{name:44} {100 * model['flops_ratio']:10.1f}% {score} "
            f"{model['ms_per_row']['median']:8.2f} {speed['median']:7.2f}x  {speed['low']:.2f}-{speed['high']:.2f}"
        )
    return "\n".join(lines)


def _require_same_task(runs: Sequence[Path]) -> None:
    """Check that all models are of one task: its rows, encoded for the first of them, are what all of them get."""
    tasks = [str(_record(run)["task"]) for run in runs]
    for run, task in zip(runs, tasks, strict=True):
        require(task == tasks[0], str(run), f"has the task {task}, {runs[0]} has {tasks[0]}; time models of one task")


def _load(run: Path, device: str, dtype: str) -> RetentionModel:
    """Load a model whose encoder and head compute in a number format."""
    model = in_precision(load(run, device=device).model, dtype)
    model.head.to(DTYPES[dtype])
    return model


def _with_int8(run: Path, model: RetentionModel) -> dict[tuple[Path, bool], RetentionModel]:
    """Return a run's model and its INT8 copy, by run and precision."""
    return {(run, False): model, (run, True): quantize_int8(model)}


def _metric(model: RetentionModel, batches: Sequence[Batch], monitor: str) -> float:
    """Compute a metric of a model on the rows of some batches."""
    columns: Columns = {}
    for batch in batches:
        with torch.inference_mode():
            encoded = model.encode(batch)
            rows = model.head.eval_rows(model.logits(encoded, batch), encoded, batch)
        for name, values in rows.items():
            columns.setdefault(name, []).extend(values)
    return model.head.compute_metrics(columns)[monitor]


def _forward(model: RetentionModel, batch: Batch) -> None:
    with torch.inference_mode():
        model(batch)


def test_batches(run: Path, data_dir: Path | None, rows: int, batch_size: int) -> tuple[list[Batch], dict[str, Any]]:
    """Read and encode test rows of a run's task.

    Args:
        run: run folder.
        data_dir: folder with the task's test file; None = the hub.
        rows: number of test rows.
        batch_size: rows of a batch.

    Returns:
        The batches, and the description of the data.
    """
    checkpoint = run / _CHECKPOINT
    config = loaded_config(read_checkpoint(checkpoint), checkpoint)
    config.data.dir = None if data_dir is None else str(data_dir)
    config.data.test_size = rows
    config.task.data.eval_batch_size = batch_size
    parts = build_parts(config, StoredTargets())
    parts.data.attach(resolve_tokenizer(parts))
    use_trained_label_order(config, parts)
    parts.data.setup("test")
    return list(parts.data.test_dataloader()), parts.data.describe()


def _to(batch: Batch, device: str) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _identity(run: Path) -> dict[str, Any]:
    """Return method, keep ratio, settings, seed and quality of a run, from its record; None if it was not tested."""
    record = _record(run)
    return {
        "run": run.name,
        **{key: record[key] for key in ("policy", "rho", "seed", "flops_ratio", "monitor")},
        **model_settings(record["config"]),
        "metric": record["metrics"][record["monitor"]] if record["kind"] == Quality.kind else None,
    }


def _record(run: Path) -> Record:
    file = next((file for name in (RECORD, VALIDATION_RECORD) if (file := run / name).is_file()), None)
    if file is None:
        raise DataError(f"{run / RECORD}: missing; time finished runs only")
    [record] = read_records([file])
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
