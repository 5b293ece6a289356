"""Build result records: what is stored beside each result to repeat it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from retention.records.check_results import Reliability, Theory
from retention.records.cost_results import InferenceMemory, Latency, Limits, Speed
from retention.records.model_results import Decoding, Embedding
from retention.records.plain import Record, plain
from retention.records.provenance import command_line, commit, machine, portable, versions
from retention.records.run_results import Paired, Quality, Rescore

Result = (
    Quality  # and its subclass Validation
    | Rescore
    | Paired
    | Speed
    | Latency
    | Limits
    | InferenceMemory
    | Embedding
    | Decoding
    | Theory
    | Reliability
)


def build_record(
    result: Result,
    *,
    config: Mapping[str, Any],
    seed: int,
    wall_s: float,
    argv: Sequence[str] | None = None,
) -> Record:
    """Build the record of a result with everything needed to repeat it, as plain JSON values.

    Numbers that are not finite become null. Absolute paths are made ``portable``.

    Args:
        result: its fields become those of the record.
        config: the resolved configuration (``OmegaConf.to_container(cfg, resolve=True)``).
        seed: the random seed.
        wall_s: duration of the whole run in seconds.
        argv: script and arguments that repeat the run; None = those of this process.

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
    record |= {each.name: getattr(result, each.name) for each in fields(result)}
    made: Record = portable(plain(record, "record"))
    return made
