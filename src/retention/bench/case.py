"""Measure one sequence length and batch size: run all variants, compare them, measure memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import torch

from retention.bench.activations import Activations
from retention.bench.availability import runnable_variants
from retention.bench.inputs import make_inputs
from retention.bench.memory import PeakMemory, peak_memory_in_subprocess
from retention.bench.plan import BenchPlan
from retention.bench.timing import Quantiles, release_memory, speedup_quantiles, synchronizer, time_interleaved
from retention.bench.variants import VariantBuilder, VariantSpec, list_variants
from retention.core.flops import EncoderShape
from retention.engine import ForwardReport


@dataclass(frozen=True)
class FlopsAccount:
    """FLOPs that a policy spends on the batches, and the tokens it keeps.

    Attributes:
        ideal_speedup: dense FLOPs / (FLOPs on the kept tokens + FLOPs of the scorers), on real tokens.
        keep_ratio: kept / real tokens, mean over samples: ``by_layer``, and ``mean`` over the gated layers.
        gflops_by_layer: GFLOPs per batch, ``dense`` and ``policy``, [L] each; a scorer counts with the layer before it.
    """

    ideal_speedup: float
    keep_ratio: dict[str, Any]
    gflops_by_layer: dict[str, list[float]]


@dataclass(frozen=True)
class VariantResult:
    """Results of one variant.

    Attributes:
        spec: the variant.
        seconds: time of each round, over all batches.
        speedup: against the baseline.
        flops: None for variants that remove nothing.
        peak: peak memory; None = not measured.
        activations: saved activations of a training step; None for inference.
    """

    spec: VariantSpec
    seconds: list[float]
    speedup: Quantiles
    flops: FlopsAccount | None
    peak: PeakMemory | None
    activations: Activations | None = None


@dataclass(frozen=True)
class CaseResult:
    """Results of all variants at one length and batch size.

    Attributes:
        length: maximum tokens per sequence.
        batch_size: sequences per batch.
        baseline: name of the fastest dense variant, by median time.
        results: one entry per variant, in the order they ran.
        scoring_costs: policy -> extra time of its scorers as a fraction of the dense model with the same attention.
        data: what the sequences are, see ``Inputs``.
        threads: PyTorch threads.
        wall_s: seconds that the whole case took.
        unavailable: dense variant -> why it cannot run on this machine.
    """

    length: int
    batch_size: int
    baseline: str
    results: list[VariantResult]
    scoring_costs: dict[str, Quantiles]
    data: dict[str, Any]
    threads: int
    wall_s: float = 0.0
    unavailable: dict[str, str] = field(default_factory=dict)

    def result(self, name: str) -> VariantResult:
        """Return the result of a variant."""
        return next(result for result in self.results if result.spec.name == name)


def measure_case(
    plan: BenchPlan, length: int, batch_size: int, *, memory: bool, log: Callable[[str], None]
) -> CaseResult:
    """Time all variants on the same batches in this process, then measure each one's memory in its own process.

    Args:
        plan: what to measure.
        length: maximum tokens per sequence.
        batch_size: sequences per batch.
        memory: True = measure peak memory as well.
        log: called with lines of progress.

    Raises:
        ConfigError: the task has fewer batches than requested, or there is no tokenizer.
        DataError: the data cannot be used.
    """
    started = time.perf_counter()
    settings, title = plan.settings, f"length {length}, batch {batch_size}"
    log(f"{title}: preparing")
    inputs = make_inputs(plan, length, batch_size)
    builder = VariantBuilder(plan, inputs.to(settings.device))
    variants, unavailable = runnable_variants(builder, list_variants(plan, inputs), title, log)
    specs = [variant.spec for variant in variants.values()]
    accounts = {
        name: flops_account(
            plan.shape,
            variant.policy.scorer_macs(),
            variant.reports(),
            before_feed_forward=_prunes_before_feed_forward(plan, variant.spec),
        )
        for name, variant in variants.items()
        if variant.policy is not None and not variant.spec.score_only
    }
    seconds = time_interleaved(
        {name: variant.calls() for name, variant in variants.items()},
        rounds=settings.rounds,
        warmup=settings.warmup,
        synchronize=synchronizer(settings.device),
        on_round_end=_ProgressLog(title, log),
    )
    activations = {name: variant.activations() for name, variant in variants.items()}
    del builder, variants  # the processes that measure memory need the device memory of these
    release_memory(settings.device)
    peaks: dict[str, PeakMemory] = {}
    for spec in specs if memory else ():
        if not spec.score_only:
            log(f"{title}: memory of {spec.name}")
            peaks[spec.name] = peak_memory_in_subprocess(settings, spec, inputs)
    baseline = fastest_dense(specs, seconds)
    results = [
        VariantResult(
            spec=spec,
            seconds=seconds[spec.name],
            speedup=speedup_quantiles(seconds[baseline], seconds[spec.name]),
            flops=accounts.get(spec.name),
            peak=peaks.get(spec.name),
            activations=activations[spec.name],
        )
        for spec in specs
    ]
    return CaseResult(
        length=length,
        batch_size=batch_size,
        baseline=baseline,
        results=results,
        scoring_costs=scoring_costs(plan, specs, seconds),
        data=inputs.description,
        threads=torch.get_num_threads(),
        wall_s=time.perf_counter() - started,
        unavailable=unavailable,
    )


def flops_account(
    shape: EncoderShape, macs: dict[int, int], reports: Sequence[ForwardReport], *, before_feed_forward: bool
) -> FlopsAccount:
    """Count the FLOPs and the kept tokens of some batches.

    Args:
        shape: dimensions of the encoder.
        macs: layer_idx -> multiply-accumulates per token of its scorer.
        reports: forward passes, one per batch.
        before_feed_forward: True = tokens were removed between attention and feed-forward.
    """
    per_batch = [report.flops_by_layer(shape, macs, before_feed_forward=before_feed_forward) for report in reports]
    flops = torch.tensor(per_batch, dtype=torch.float64)  # [batches, 2, L]
    dense, pruned = flops.sum((0, 2)).tolist()
    by_layer = {
        layer: float(torch.cat([report.kept[layer] / report.lengths for report in reports]).mean())
        for layer in sorted(reports[0].kept)
    }
    keep_ratio = {"mean": fmean(by_layer.values()), "by_layer": by_layer}
    gflops = dict(zip(("dense", "policy"), (flops.mean(0) / 1e9).tolist(), strict=True))
    return FlopsAccount(dense / pruned, keep_ratio, gflops)


def fastest_dense(specs: Sequence[VariantSpec], seconds: dict[str, list[float]]) -> str:
    """Return the name of the dense variant with the lowest median time."""
    return min((spec.name for spec in specs if spec.candidate is None), key=lambda name: median(seconds[name]))


def scoring_costs(
    plan: BenchPlan, specs: Sequence[VariantSpec], seconds: dict[str, list[float]]
) -> dict[str, Quantiles]:
    """Compute (dense with scoring - dense) / dense, round by round, for every kind of policy with scorers.

    The result is an upper bound: all scorers see the full length here, while later ones see fewer tokens in use, and
    the time of the hooks is included.
    """
    costs = {}
    for spec in specs:
        if spec.score_only and spec.candidate is not None:
            dense_name = "dense-engine" if plan.engine_attention else f"dense-{spec.attention}"
            pairs = zip(seconds[spec.name], seconds[dense_name], strict=True)
            costs[plan.candidates[spec.candidate].name] = Quantiles.of(
                [scored / dense - 1.0 for scored, dense in pairs]
            )
    return costs


def _prunes_before_feed_forward(plan: BenchPlan, spec: VariantSpec) -> bool:
    return spec.candidate is not None and plan.candidates[spec.candidate].prune_at == "after_attention"


class _ProgressLog:
    """Log the rounds done, with an estimate of the time left."""

    def __init__(self, title: str, log: Callable[[str], None]) -> None:
        self.title = title
        self.log = log
        self.started = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        left = (time.perf_counter() - self.started) / done * (total - done)
        self.log(f"{self.title}: round {done} of {total}, about {left:.0f} s left")
