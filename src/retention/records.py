"""Result records: what was run, on what, and what came out; one JSON object each."""

from __future__ import annotations

import fcntl
import json
import math
import numbers
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from retention.errors import DataError
from retention.provenance import command_line, commit, machine, portable, versions

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a training or test run achieved.

    Attributes:
        task: name of the benchmark.
        data: what the rows are and how many (``source``, ``train``, ``test``, ...).
        policy: name of the retention policy.
        backbone: name of the encoder.
        rho: asked share of kept tokens, in (0, 1].
        kept_share: ``mean`` and ``by_layer``, achieved on real tokens.
        flops_share: encoder FLOPs on real tokens as a share of the dense model's.
        metrics: name -> value; shares in [0, 1].
        monitor: the headline metric, a key of ``metrics``.
        throughput_tokens_per_s: real tokens per second of the test run, None if not timed.
        peak_mib: peak memory of the run, None if not measured.
        memory_kind: what ``peak_mib`` counts, see ``retention.callbacks.Memory``.

    Raises:
        DataError: ``monitor`` is not in ``metrics``.
    """

    kind: ClassVar[str] = "quality"
    task: str
    data: Mapping[str, Any]
    policy: str
    backbone: str
    rho: float
    kept_share: Mapping[str, Any]
    flops_share: float
    metrics: Mapping[str, float]
    monitor: str
    throughput_tokens_per_s: float | None
    peak_mib: float | None
    memory_kind: str | None = None

    def __post_init__(self) -> None:
        if self.monitor not in self.metrics:
            known = ", ".join(self.metrics) or "none"
            raise DataError(f"quality record: monitor {self.monitor!r} is not among the metrics ({known})")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a policy is beside the fastest dense model.

    Attributes:
        phase: ``inference`` or ``train``.
        backbone: name of the encoder.
        device: where it ran.
        dtype: of weights and activations.
        batch: samples per batch.
        length: tokens per sample.
        policy: name of the retention policy.
        rho: asked share of kept tokens, in (0, 1].
        baseline: the fastest dense variant, by name.
        speedup: ``median``, ``low`` and ``high``.
        ideal_speedup: from the FLOPs ledger.
        share_of_ideal: how much of it was reached.
        peak_mib: peak memory, None if not measured.
        baseline_peak_mib: the same for the baseline.
        memory_kind: what both count, see ``retention.callbacks.Memory``.
    """

    kind: ClassVar[str] = "speed"
    phase: str
    backbone: str
    device: str
    dtype: str
    batch: int
    length: int
    policy: str
    rho: float
    baseline: str
    speedup: Mapping[str, float]
    ideal_speedup: float
    share_of_ideal: float
    peak_mib: float | None
    baseline_peak_mib: float | None
    memory_kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the matrix products of an encoder's layers can reach on a machine.

    Attributes:
        backbone: name of the encoder.
        device: where it ran.
        dtype: of weights and states.
        threads: of PyTorch on a CPU.
        copy_gb_per_s: bytes read and written by a copy far beyond the caches, in GB/s.
        limits: one entry per number of tokens in a batch, see ``retention.bench.limits.Limit``.
    """

    kind: ClassVar[str] = "limits"
    backbone: str
    device: str
    dtype: str
    threads: int
    copy_gb_per_s: float
    limits: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What one run scores more than another, row by row of the same test.

    Attributes:
        task: name of the benchmark.
        data: what the rows are and how many.
        first: the run compared: ``policy``, ``rho``, ``seed``, ``backbone``, ``commit``, and its mean ``score``.
        second: the run it is compared with, likewise.
        rows: number of test rows.
        difference: ``mean`` of score(first) - score(second), and its 95 % interval ``low`` .. ``high``.
        better, worse, equal: rows on which the first run scores more, less, the same.
    """

    kind: ClassVar[str] = "paired"
    task: str
    data: Mapping[str, Any]
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    rows: int
    difference: Mapping[str, Any]
    better: int
    worse: int
    equal: int


def build_record(
    result: Quality | Speed | Limits | Paired,
    *,
    config: Mapping[str, Any],
    seed: int,
    wall_s: float,
    argv: Sequence[str] | None = None,
) -> Record:
    """A result with everything needed to run it again, as plain JSON values.

    Numbers that are not finite become null, which JSON has no other word for. Absolute paths are made ``portable``.

    Args:
        result: the outcome.
        config: the resolved configuration (``OmegaConf.to_container(cfg, resolve=True)``).
        seed: the random seed.
        wall_s: seconds the whole run took.
        argv: script and arguments; None = those of this process.

    Raises:
        DataError: a value is of a type that JSON does not have.
    """
    record: Record = {
        "kind": result.kind,
        "command": command_line(sys.argv if argv is None else argv),
        "commit": commit(),
        "config": config,
        "seed": seed,
        "versions": versions(),
        "machine": machine(),
        "wall_s": round(wall_s, 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record |= {field.name: getattr(result, field.name) for field in fields(result)}
    plain: Record = portable(_plain(record, "record"))
    return plain


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write one record as a JSON file; readers see the old file or the new one, never a part."""
    write_atomic(Path(path), json.dumps(_plain(record, "record"), ensure_ascii=False, indent=2) + "\n")


def append_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON Lines file, making it and its folder if need be.

    Safe beside other writers of the same file: one write under a lock. If an earlier writer was cut off within its
    line, the record starts on a new one.

    Raises:
        DataError: the line could not be written whole (the disk is full, say).
    """
    target = Path(path)
    line = json.dumps(_plain(record, "record"), ensure_ascii=False).encode() + b"\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        written = file.write(line)
        os.fsync(file.fileno())
    if written != len(line):
        raise DataError(f"{target}: only {written} of {len(line)} bytes could be written; free some space, try again")


def append_missing_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append a record that was read from a file, unless the JSON Lines file holds it already."""
    if not Path(path).exists() or record not in read_records([path]):
        append_record(path, record)


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON Lines file; readers see the old file or the new one, never a part."""
    lines = (json.dumps(_plain(record, "record"), ensure_ascii=False) + "\n" for record in records)
    write_atomic(Path(path), "".join(lines))


def read_records(paths: Iterable[str | Path]) -> list[Record]:
    """All records of JSON Lines files (``.jsonl``) and of single JSON files (``.json``), in order.

    Fields this version does not know are passed through.

    Raises:
        DataError: a file cannot be read, or a line of it is not a record; the message names file and line.
    """
    return [record for path in paths for _, record in read_numbered(path)]


def read_numbered(path: str | Path) -> list[tuple[int, Record]]:
    """The records of one file, each with the number of its line, from 1; see ``read_records``."""
    found = read_objects(path)
    for number, record in found:
        if "kind" not in record:
            where = path if Path(path).suffix == ".json" else f"{path}:{number}"
            raise DataError(f"{where}: not a result record; expected a JSON object with a 'kind'")
    return found


def read_objects(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file (of a ``.json``: its one), each with the number of its line, from 1.

    Raises:
        DataError: the file cannot be read, or a line of it is no JSON object; the message names file and line.
    """
    source = Path(path)
    text = _read(source)
    if source.suffix == ".json":
        return [(1, _parse(text, str(source)))]
    lines = text.split("\n")  # splitlines would also split at separators inside JSON strings
    return [(number, _parse(line, f"{source}:{number}")) for number, line in enumerate(lines, start=1) if line.strip()]


def write_atomic(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then move it into place; makes the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any, where: str) -> Any:
    """``value`` in JSON's own types; ``where`` names it in errors."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    raise DataError(f"{where}: a {type(value).__name__} cannot be stored in a record; convert it first")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; it is no file of records") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        remedy = "remove the line if its writer was cut off"
        raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); {remedy}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object")
    return value
