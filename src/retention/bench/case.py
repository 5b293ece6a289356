"""One length and batch size: run everything, compare it, measure memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import torch

from retention.bench.activations import Activations
from retention.bench.availability import available
from retention.bench.inputs import make_inputs
from retention.bench.memory import Peak, peak_alone
from retention.bench.plan import Plan
from retention.bench.timing import Spread, interleaved, ratios, release, waiter
from retention.bench.variants import Spec, VariantBuilder, specs
from retention.core.flops import EncoderShape
from retention.engine import ForwardReport


@dataclass(frozen=True)
class FlopsAccount:
    """What a policy did to the batches, by count.

    Attributes:
        ideal_speedup: dense FLOPs / (FLOPs on the kept tokens + FLOPs of the scorers), on real tokens.
        keep_ratio: ``mean`` over the gated layers and ``by_layer``, of kept / real tokens, mean over samples.
        gflops_by_layer: ``dense`` and ``policy``, per batch, [L] each; a layer's gate is part of it.
    """

    ideal_speedup: float
    keep_ratio: dict[str, Any]
    gflops_by_layer: dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One variant's results.

    Attributes:
        spec: the variant.
        seconds: per round, over all batches.
        speedup: against the baseline.
        ledger: of a variant that removes tokens.
        peak: None = not measured.
        activations: of a training step.
    """

    spec: Spec
    seconds: list[float]
    speedup: Spread
    ledger: FlopsAccount | None
    peak: Peak | None
    activations: Activations | None = None


@dataclass(frozen=True)
class Case:
    """Everything measured at one length and batch size.

    Attributes:
        baseline: name of the fastest dense variant, by median.
        rows: in the order they ran.
        scoring: policy -> cost of its scorers, as a share of the dense model with the same attention.
        note: what the texts are.
        threads: of PyTorch.
        unavailable: dense variant -> why it cannot run here.
    """

    length: int
    batch_size: int
    baseline: str
    rows: list[Row]
    scoring: dict[str, Spread]
    note: dict[str, Any]
    threads: int
    wall_s: float = 0.0
    unavailable: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """The row of a variant."""
        return next(row for row in self.rows if row.spec.name == name)


def measure(plan: Plan, length: int, batch_size: int, *, memory: bool, tell: Callable[[str], None]) -> Case:
    """Time all variants on the same batches in this process, then each one's memory in a process of its own.

    Args:
        plan: what to measure.
        length: tokens per text at most.
        batch_size: texts per batch.
        memory: whether to measure peak memory.
        tell: is given lines of progress.

    Raises:
        ConfigError: the task has fewer batches than asked for, or nobody brings a tokenizer.
        DataError: the data cannot be used.
    """
    started = time.perf_counter()
    settings, title = plan.settings, f"length {length}, batch {batch_size}"
    tell(f"{title}: preparing")
    inputs = make_inputs(plan, length, batch_size)
    builder = VariantBuilder(plan, inputs.to(settings.device))
    variants, unavailable = available(builder, specs(plan, inputs), title, tell)
    wanted = [variant.spec for variant in variants.values()]
    ledgers = {
        name: ledger(plan.shape, variant.policy.scorer_macs(), variant.reports(), early=_early(plan, variant.spec))
        for name, variant in variants.items()
        if variant.policy is not None and not variant.spec.keeps_all
    }
    seconds = interleaved(
        {name: variant.calls() for name, variant in variants.items()},
        rounds=settings.rounds,
        warmup=settings.warmup,
        wait=waiter(settings.device),
        tell=_Progress(title, tell),
    )
    saved = {name: variant.activations() for name, variant in variants.items()}
    del builder, variants  # the processes that measure memory need what these hold of the device
    release(settings.device)
    peaks: dict[str, Peak] = {}
    for spec in wanted if memory else ():
        if not spec.keeps_all:
            tell(f"{title}: memory of {spec.name}")
            peaks[spec.name] = peak_alone(settings, spec, inputs)
    baseline = fastest_dense(wanted, seconds)
    rows = [
        Row(
            spec=spec,
            seconds=seconds[spec.name],
            speedup=ratios(seconds[baseline], seconds[spec.name]),
            ledger=ledgers.get(spec.name),
            peak=peaks.get(spec.name),
            activations=saved[spec.name],
        )
        for spec in wanted
    ]
    return Case(
        length=length,
        batch_size=batch_size,
        baseline=baseline,
        rows=rows,
        scoring=scoring_cost(plan, wanted, seconds),
        note=inputs.note,
        threads=torch.get_num_threads(),
        wall_s=time.perf_counter() - started,
        unavailable=unavailable,
    )


def ledger(shape: EncoderShape, macs: dict[int, int], reports: Sequence[ForwardReport], *, early: bool) -> FlopsAccount:
    """The account of some batches.

    Args:
        shape: of the encoder.
        macs: layer_idx -> multiply-accumulates per token of its scorer.
        reports: of the batches.
        early: whether tokens left between attention and feed-forward.
    """
    each = [report.flops_by_layer(shape, macs, before_feed_forward=early) for report in reports]
    costs = torch.tensor(each, dtype=torch.float64)  # [batches, 2, L]
    dense, spent = costs.sum((0, 2)).tolist()
    by_layer = {
        layer: float(torch.cat([report.kept[layer] / report.lengths for report in reports]).mean())
        for layer in sorted(reports[0].kept)
    }
    keep_ratio = {"mean": fmean(by_layer.values()), "by_layer": by_layer}
    gflops = dict(zip(("dense", "policy"), (costs.mean(0) / 1e9).tolist(), strict=True))
    return FlopsAccount(dense / spent, keep_ratio, gflops)


def fastest_dense(wanted: Sequence[Spec], seconds: dict[str, list[float]]) -> str:
    """Name of the dense variant with the least median time."""
    return min((spec.name for spec in wanted if spec.candidate is None), key=lambda name: median(seconds[name]))


def scoring_cost(plan: Plan, wanted: Sequence[Spec], seconds: dict[str, list[float]]) -> dict[str, Spread]:
    """(dense with scoring - dense) / dense, round by round, for every kind of policy that scores.

    An upper bound: all scorers see the full length here, in use later ones see fewer tokens; and the hooks count too.
    """
    costs = {}
    for spec in wanted:
        if spec.keeps_all and spec.candidate is not None:
            rival = "dense-engine" if plan.engine_attention else f"dense-{spec.attention}"
            pairs = zip(seconds[spec.name], seconds[rival], strict=True)
            costs[plan.candidates[spec.candidate].name] = Spread.of([scored / dense - 1.0 for scored, dense in pairs])
    return costs


def _early(plan: Plan, spec: Spec) -> bool:
    return spec.candidate is not None and plan.candidates[spec.candidate].prune_at == "after_attention"


class _Progress:
    """Turns counts of rounds into lines with an estimate of the time left."""

    def __init__(self, title: str, tell: Callable[[str], None]) -> None:
        self.title = title
        self.tell = tell
        self.started = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        left = (time.perf_counter() - self.started) / done * (total - done)
        self.tell(f"{self.title}: round {done} of {total}, about {left:.0f} s left")
