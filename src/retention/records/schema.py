"""Define the result records: their kinds, and what is stored beside each result to repeat it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from retention.errors import DataError
from retention.records.plain import Record, plain
from retention.records.provenance import command_line, commit, machine, portable, versions


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Results of a training or test run.

    Attributes:
        task: name of the task.
        data: description of the rows (``source``, ``provenance``) and their numbers (``train``, ``test``, ...).
        policy: name of the retention policy.
        backbone: name of the encoder.
        rho: target keep ratio, in (0, 1].
        keep_ratio: achieved keep ratio on real tokens, ``mean`` and ``by_layer``.
        flops_ratio: encoder FLOPs on real tokens divided by those of the dense model.
        metrics: name -> value; ratios in [0, 1].
        monitor: the main metric, a key of ``metrics``.
        throughput_tokens_per_s: real tokens per second of the test run, None if not timed.
        peak_mib: peak memory of the run, None if not measured.
        memory_kind: kind of memory that ``peak_mib`` counts, see ``retention.callbacks.Memory``.
        training: ``epochs`` and optimizer ``steps`` of the training (missing where a model was only tested), and
            summaries of the callbacks: ``speed``, ``memory`` and ``slack`` of the budget (its ``unmet_budget`` is the
            slack that a method was left with at the end of the soft phase, None if it met its budget).
        groups: name of a group of rows -> its number of ``rows`` and their mean ``score``.
        training_cost: cost of the training in dense epochs, see ``retention.callbacks.TrainingCost``; empty for a
            model that was only tested.

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
    training: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    training_cost: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.monitor not in self.metrics:
            available = ", ".join(self.metrics) or "none"
            raise DataError(f"{self.kind} record: monitor {self.monitor!r} is not among the metrics ({available})")


@dataclass(frozen=True, kw_only=True)
class Validation(Quality):
    """Results of a trained model on its validation rows, for choosing settings; no test row was scored.

    Metrics, achieved keep ratio and FLOPs ratio are those of the validation rows.
    """

    kind: ClassVar[str] = "validation"


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """Further scores of a finished run, computed from its predictions without the model.

    Attributes:
        of: the run: ``task``, ``policy``, ``rho``, ``seed``, ``backbone``, ``commit`` and ``date`` of its record.
        data: description of its rows.
        metrics: name -> value.
        groups: name of a group of rows -> its number of ``rows`` and their mean ``score``.
    """

    kind: ClassVar[str] = "rescore"
    of: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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
        data: description of the rows, and their number ``rows``.
        device: device type, ``cpu`` or ``cuda``.
        dtype: of weights and activations.
        threads: PyTorch threads on a CPU.
        batch: rows per batch.
        rounds: timed rounds over all batches.
        models: one entry per model, the reference first: ``policy``, ``rho``, ``seed``, ``layers`` (None = all),
            ``saliency`` (weight of the saliency distillation), ``flops_ratio``, ``monitor`` and its value ``metric``,
            ``ms_per_row`` and ``speedup`` over the reference, both with ``median``, ``low`` and ``high``. With INT8
            copies in the same run also ``int8`` and ``metric_on_rows``, the metric on the timed rows.
    """

    kind: ClassVar[str] = "latency"
    task: str
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


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Difference between two runs over the rows of the same test set.

    Attributes:
        task: name of the task.
        data: description of the rows and their numbers.
        first: the run compared: ``policy``, ``rho``, ``seed``, ``backbone``, ``commit``, ``layers`` of a shallower
            student (None = all), ``saliency`` (weight of the saliency distillation), and its mean ``score``.
        second: the run it is compared with, likewise. With several seeds, ``seed`` is a list in both and ``commit``
            that of the first seed.
        rows: number of test rows.
        difference: ``mean`` of score(first) - score(second), and its 95 % interval ``low`` .. ``high``.
        better, worse, equal: number of rows on which the first run scores more, less, the same; for divergences, on
            which it is nearer to the reference, farther, as far.
        measure: ``score``; or ``divergence``: the scores are KL(reference || run) in nats, so lower is better.
        reference: the run that divergences are measured from, like ``first`` without a score; None = none.
        by_seed: mean difference of each seed; None with a single seed.
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


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Check of a proposition, lemma or theorem of the paper on small exact instances.

    Attributes:
        claim: name of the claim, for example ``lemma1``.
        source: appendix of the paper.
        instance: instance of the measurement that decides.
        quantity: quantity of the measurement that decides.
        value: its value.
        mc_error: standard error of ``value``, None if it is exact.
        verdict: ``holds``, ``fails`` or ``holds in another form``.
        measurements: all measurements, each with ``instance``, ``quantity``, ``value``, ``mc_error`` and ``at``, its
            coordinates (name -> number).
    """

    kind: ClassVar[str] = "theory"
    claim: str
    source: str
    instance: str
    quantity: str
    value: float
    mc_error: float | None
    verdict: str
    measurements: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Outcome of a reliability check: many attempts, each with the right result, a clear error, or a fault.

    Attributes:
        check: name of the check, for example ``fuzzed_configurations``.
        tried: number of attempts.
        clear: attempts that ended with the right result or with a clear error.
        wrong: attempts that ended with a wrong answer, without an error where one was due, or that ran foreign code.
        details: counts and measurements of the check (name -> number, text, list or mapping), such as
            ``tracebacks`` (errors of an inner library), ``hangs`` and ``faults`` (descriptions).

    Raises:
        DataError: a count is negative, or ``clear`` and ``wrong`` add up to more than ``tried``.
    """

    kind: ClassVar[str] = "reliability"
    check: str
    tried: int
    clear: int
    wrong: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.tried, self.clear, self.wrong) < 0 or self.clear + self.wrong > self.tried:
            counts = f"tried={self.tried}, clear={self.clear}, wrong={self.wrong}"
            raise DataError(f"reliability record {self.check}: clear + wrong must be in [0, tried], got {counts}")


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Quality and speed of an embedding model at one keep ratio, beside a reference model.

    Attributes:
        model: name of the model.
        reference: name of the model that is compared with, usually the dense one.
        policy: name of the retention policy; ``dense`` where nothing is removed.
        layers: number of encoder layers.
        rho: target keep ratio, in (0, 1].
        keep_ratio: benchmark -> achieved keep ratio on real tokens, mean over the gated layers.
        flops_ratio: benchmark -> encoder FLOPs on real tokens divided by those of the reference.
        split: ``validation`` or ``test``.
        data: benchmark -> description (``source``) and numbers of its rows.
        metrics: name -> value, ratios and correlations: ``stsb_spearman``, ``cranfield_ndcg10``,
            ``newsgroups_accuracy``, ``newsgroups_knn_accuracy``, and ``<benchmark>_cosine``, the mean cosine of the
            embeddings to those of the reference.
        differences: metric -> ``mean`` of model - reference, its 95 % bootstrap interval ``low`` .. ``high`` and the
            number of ``rows`` (pairs, queries or texts); empty for the reference.
        speed: ``ms_per_document``, ``documents_per_s`` and ``speedup`` over the reference, each with ``median``,
            ``low`` and ``high``, and the conditions of the measurement; None if not timed.
        rows: name of the file with the outcome of every row, beside the file of records; None = not written.
    """

    kind: ClassVar[str] = "embedding"
    model: str
    reference: str
    policy: str
    layers: int
    rho: float
    keep_ratio: Mapping[str, float]
    flops_ratio: Mapping[str, float]
    split: str
    data: Mapping[str, Any]
    metrics: Mapping[str, float]
    differences: Mapping[str, Any]
    speed: Mapping[str, Any] | None = None
    rows: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Results of a decoder whose key-value cache holds at most M tokens per layer.

    Attributes:
        model: name of the decoder.
        policy: name of the cache policy; ``full`` for the full cache.
        size: M, tokens per layer.
        sinks: first tokens that are always held.
        window: newest tokens that are always held.
        scores: how learned scores were trained; None for other policies.
        task: ``text`` (loss of a language model), ``recall``, ``needle`` (exact answers), or ``cost``.
        texts: name of the file of texts; None = none was read.
        text_lengths: tokens of each text, or of the context of each example.
        counted_tokens: tokens of each text that ``loss`` counts; for other tasks, questions of each example.
        loss: mean loss in nats over the counted tokens; None for other tasks.
        loss_by_text: the same for each text.
        accuracy: share of questions with the exact answer, in [0, 1]; None for other tasks.
        accuracy_by_text: the same for each example.
        interval: 95 % bootstrap interval over texts of loss or accuracy, ``low`` and ``high``; None with one text.
        difference: mean over texts of this policy minus ``baseline``, and its interval ``low`` .. ``high``; None where
            the baseline was not measured in the same run.
        cost: ``length``, ``cache_bytes``, ``prefill_s``, and ``ms_per_token`` with ``median``, ``low`` and ``high``.

    Raises:
        DataError: the record holds no result.
    """

    kind: ClassVar[str] = "decoding"
    model: str
    policy: str
    size: int
    sinks: int
    window: int
    scores: Mapping[str, Any] | None = None
    task: str = "text"
    texts: str | None = None
    text_lengths: Sequence[int] = ()
    counted_tokens: Sequence[int] = ()
    loss: float | None = None
    loss_by_text: Sequence[float] = ()
    accuracy: float | None = None
    accuracy_by_text: Sequence[float] = ()
    interval: Mapping[str, float | None] | None = None
    difference: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.loss is None and self.accuracy is None and self.cost is None:
            raise DataError(f"decoding record {self.policy}: needs loss, accuracy or cost")


def build_record(
    result: Quality
    | Rescore
    | Speed
    | Latency
    | Limits
    | InferenceMemory
    | Paired
    | Theory
    | Reliability
    | Embedding
    | Decoding,
    *,
    config: Mapping[str, Any],
    seed: int,
    wall_s: float,
    argv: Sequence[str] | None = None,
) -> Record:
    """Build the record of a result with everything needed to repeat it, as plain JSON values.

    Numbers that are not finite become null. Absolute paths are made ``portable``.

    Args:
        result: one of the kinds above.
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
