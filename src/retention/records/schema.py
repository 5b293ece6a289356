"""The kinds of results, and what is noted beside each to run it again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from retention.errors import DataError
from retention.records.plain import Record, plain
from retention.records.provenance import command_line, commit, machine, portable, versions


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a training or test run achieved.

    Attributes:
        task: name of the benchmark.
        data: what the rows are and how many (``source``, ``train``, ``test``, ...).
        policy: name of the retention policy.
        backbone: name of the encoder.
        rho: asked share of kept tokens, in (0, 1].
        keep_ratio: ``mean`` and ``by_layer``, achieved on real tokens.
        flops_ratio: encoder FLOPs on real tokens as a share of the dense model's.
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
    keep_ratio: Mapping[str, Any]
    flops_ratio: float
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
    """What one run scores more than another, row by row of the same test; or how much farther it is from a third.

    Attributes:
        task: name of the benchmark.
        data: what the rows are and how many.
        first: the run compared: ``policy``, ``rho``, ``seed``, ``backbone``, ``commit``, and its mean ``score``.
        second: the run it is compared with, likewise. Where a row's score is its mean over several seeds, ``seed`` is
            a list in both, and ``commit`` that of the first.
        rows: number of test rows.
        difference: ``mean`` of score(first) - score(second), and its 95 % interval ``low`` .. ``high``.
        better, worse, equal: rows on which the first run scores more, less, the same; of divergences, on which it is
            nearer, farther, as far.
        measure: ``score``, or ``divergence``: the scores are KL(reference || run) in nats, so less is better.
        reference: the run that divergences are from, told like ``first`` without a score; None = none.
        by_seed: mean difference of each seed, where there are several.
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
    measure: str = "score"
    reference: Mapping[str, Any] | None = None
    by_seed: Sequence[float] | None = None


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
    made: Record = portable(plain(record, "record"))
    return made
