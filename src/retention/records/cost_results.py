"""Define the records of measured time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of a policy compared with the fastest dense model.

    Attributes:
        phase: ``inference`` or ``train``.
        backbone: name of the encoder.
        device: device type, ``cpu`` or ``cuda``.
        dtype: of weights and activations.
        batch: sequences per batch.
        length: tokens per sequence.
        policy: name of the retention policy.
        prune_at: ``after_layer`` or ``after_attention``.
        rho: target keep ratio, in (0, 1].
        keep_ratio: achieved keep ratio, ``mean`` and ``by_layer``.
        data: description of the rows.
        baseline: name of the fastest dense variant.
        speedup: ``median``, ``low`` and ``high``.
        ideal_speedup: ratio of the FLOPs.
        share_of_ideal: ``speedup`` divided by ``ideal_speedup``.
        timing: ``ms_per_batch`` (median over rounds) of the policy and of every dense variant, ``rounds``, ``warmup``,
            ``threads``, and ``scoring_share``, the cost of scoring alone.
        gflops_by_layer: of a batch, ``dense`` and ``policy``.
        activations: MiB that a training step keeps for the backward pass, None if not measured.
        unavailable: dense variants that the platform cannot run -> reason.
        peak_mib: peak memory, None if not measured.
        baseline_peak_mib: the same for the baseline.
        rest_mib: memory in use before the first batch, None if not measured.
        baseline_rest_mib: the same for the baseline.
        memory_kind: kind of memory that is counted, see ``retention.callbacks.Memory``.
    """

    kind: ClassVar[str] = "speed"
    phase: str
    backbone: str
    device: str
    dtype: str
    batch: int
    length: int
    policy: str
    prune_at: str = "after_layer"
    rho: float
    keep_ratio: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    baseline: str
    speedup: Mapping[str, float]
    ideal_speedup: float
    share_of_ideal: float
    timing: Mapping[str, Any] = field(default_factory=dict)
    gflops_by_layer: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, Any] | None = None
    unavailable: Mapping[str, str] = field(default_factory=dict)
    peak_mib: float | None
    baseline_peak_mib: float | None
    rest_mib: float | None = None
    baseline_rest_mib: float | None = None
    memory_kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of trained models that took turns on the same test rows.

    Attributes:
        task: name of the task.
        backbone: name of the encoder of the first model; earlier records do not have it.
        data: description of the rows, and their number ``rows``.
        device: device type, ``cpu`` or ``cuda``.
        dtype: of weights and activations.
        threads: PyTorch threads on a CPU.
        batch: rows per batch.
        rounds: timed rounds over all batches.
        models: one entry per model, the reference first: ``policy``, ``rho``, ``seed``, ``layers`` (None = all),
            ``saliency`` (weight of the saliency distillation), ``prune_at``, ``lr``, ``flops_ratio``, ``monitor`` and
            its value ``metric`` (None = the run was validated, but not tested), ``ms_per_row`` and ``speedup`` over
            the reference, both with ``median``, ``low`` and ``high``. With INT8 copies in the same run also ``int8``
            and ``metric_on_rows``, the metric on the timed rows.
    """

    kind: ClassVar[str] = "latency"
    task: str
    backbone: str
    data: Mapping[str, Any]
    device: str
    dtype: str
    threads: int
    batch: int
    rounds: int
    models: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Highest rates that the matrix products of an encoder's layers reach on a machine.

    Attributes:
        backbone: name of the encoder.
        device: device type, ``cpu`` or ``cuda``.
        dtype: of weights and hidden states.
        threads: PyTorch threads on a CPU.
        copy_gb_per_s: GB/s read and written by a copy that does not fit in the caches.
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
class InferenceMemory:
    """Memory of activations at inference, by layer: sums of live tensors without weights and inputs.

    Attributes:
        backbone: name of the encoder.
        attention: attention implementation.
        batch: sequences per batch.
        length: tokens per sequence.
        dense: ``embeddings_mib``, ``by_layer`` and ``peak_mib`` of the dense encoder.
        pruned: the same of pruned encoders, with their settings, see ``retention.bench.inference_memory``.
    """

    kind: ClassVar[str] = "inference_memory"
    backbone: str
    attention: str
    batch: int
    length: int
    dense: Mapping[str, Any]
    pruned: Sequence[Mapping[str, Any]]
