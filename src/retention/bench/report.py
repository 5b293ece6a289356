"""Format the results of a measurement as a table and as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from retention.bench.case import CaseResult, VariantResult
from retention.bench.plan import BenchPlan
from retention.records import Record, Speed, build_record

_HEADER = ("variant", "kept", "ms/batch", "speedup", "10-90 %", "ideal", "of ideal", "peak MiB")
_SAVED_HEADER = ("saved MiB", "of dense")


def format_table(plan: BenchPlan, case: CaseResult) -> str:
    """Format a case as aligned text, one line per variant."""
    settings, data = plan.settings, case.data
    title = (
        f"{settings.phase}: {plan.backbone.name}, length {case.length}, batch {case.batch_size}, {settings.dtype} on "
        f"{settings.device}, {case.threads} thread{'s' * (case.threads > 1)}, "
        f"{settings.rounds} rounds of {settings.batches} batches"
    )
    rows = f"{data['rows']} sequences: {data['source']}; mean {data['mean_length']:.0f} tokens"
    training = settings.phase == "train"
    header = _HEADER + _SAVED_HEADER * training
    lines = _align([header, *(_cells(case, result, settings.batches, training) for result in case.results)])
    notes = [f"speedup over {case.baseline}, round by round; ideal = ratio of FLOPs on real tokens, scorers included"]
    notes += ["saved = activations that a step saves for its backward pass, per batch"] * training
    notes += [f"{name} is left out: {reason}" for name, reason in case.unavailable.items()]
    for name, cost in case.scoring_costs.items():
        low, high = f"{100 * cost.low:+.1f}", f"{100 * cost.high:+.1f}"
        notes.append(f"scoring alone ({name}, nothing removed): {100 * cost.median:+.1f} % of dense ({low} to {high})")
    notes += _flops_by_layer(case)
    return "\n".join([title, f"{rows}, {100 * data['padding']:.1f} % padding", "", *lines, "", *notes]) + "\n"


def build_records(plan: BenchPlan, case: CaseResult, argv: Sequence[str]) -> list[Record]:
    """Build one speed record per policy, keep ratio and prune point."""
    return [_build_record(plan, case, result, argv) for result in case.results if result.flops is not None]


def _build_record(plan: BenchPlan, case: CaseResult, result: VariantResult, argv: Sequence[str]) -> Record:
    settings, baseline = plan.settings, case.result(case.baseline)
    if result.flops is None or result.spec.candidate is None:
        raise ValueError(f"{result.spec.name} removes no tokens, so there is no speedup to record")
    candidate = plan.candidates[result.spec.candidate]
    scoring_cost = case.scoring_costs.get(candidate.name)
    timing = {
        "ms_per_batch": _milliseconds(result, settings.batches),
        "dense_ms_per_batch": {
            other.spec.name: _milliseconds(other, settings.batches)
            for other in case.results
            if other.spec.candidate is None
        },
        "rounds": settings.rounds,
        "warmup": settings.warmup,
        "threads": case.threads,
        "scoring_share": None if scoring_cost is None else scoring_cost.as_dict(),
    }
    speed = Speed(
        phase=settings.phase,
        backbone=plan.backbone.name,
        device=settings.device,
        dtype=settings.dtype,
        batch=case.batch_size,
        length=case.length,
        policy=candidate.name,
        prune_at=candidate.prune_at,
        rho=candidate.policy.rho,
        keep_ratio=result.flops.keep_ratio,
        data=case.data,
        baseline=case.baseline,
        speedup=result.speedup.as_dict(),
        ideal_speedup=result.flops.ideal_speedup,
        share_of_ideal=result.speedup.median / result.flops.ideal_speedup,
        timing=timing,
        gflops_by_layer=result.flops.gflops_by_layer,
        activations=_activations(case, result),
        unavailable=case.unavailable,
        peak_mib=None if result.peak is None else result.peak.peak_mib,
        baseline_peak_mib=None if baseline.peak is None else baseline.peak.peak_mib,
        rest_mib=None if result.peak is None else result.peak.start_mib,
        baseline_rest_mib=None if baseline.peak is None else baseline.peak.start_mib,
        memory_kind=None if result.peak is None else result.peak.kind,
    )
    config = {"bench": asdict(settings), "backbone": plan.backbone_node, "retention": candidate.node}
    return build_record(speed, config=config, seed=settings.seed, wall_s=case.wall_s, argv=argv)


def _activations(case: CaseResult, result: VariantResult) -> dict[str, Any] | None:
    """Compare the activations that a training step saves, in MiB per batch, with those of the baseline.

    ``saved_by_layer`` is cumulative. The layers of a compiled model cannot be observed, so ``dense_saved_by_layer`` is
    taken from the first dense variant.
    """
    baseline, dense = case.result(case.baseline).activations, case.results[0].activations
    if result.activations is None or baseline is None or dense is None:
        return None
    return {
        "saved_mib": result.activations.saved_mib,
        "baseline_saved_mib": baseline.saved_mib,
        "share": result.activations.saved_mib / baseline.saved_mib,
        "saved_by_layer": list(result.activations.by_layer),
        "dense_saved_by_layer": list(dense.by_layer),
    }


def _flops_by_layer(case: CaseResult) -> list[str]:
    """Format GFLOPs by layer: one line for the dense model, one per policy and keep ratio."""
    gflops = {result.spec.name: result.flops.gflops_by_layer for result in case.results if result.flops is not None}
    if not gflops:
        return []
    dense = next(iter(gflops.values()))["dense"]
    lines = [("GFLOPs per batch in layer", *map(str, range(len(dense))))]
    lines.append(("dense", *(f"{value:.3g}" for value in dense)))
    lines += [(name, *(f"{value:.3g}" for value in by_layer["policy"])) for name, by_layer in gflops.items()]
    return ["", *_align(lines)]


def _cells(case: CaseResult, result: VariantResult, batches: int, training: bool) -> tuple[str, ...]:
    is_baseline = result.spec.name == case.baseline
    speedup = "baseline" if is_baseline else f"{result.speedup.median:.2f}"
    quantiles = "" if is_baseline else f"{result.speedup.low:.2f}-{result.speedup.high:.2f}"
    kept, ideal, share = "100.0 %", "", ""
    if result.flops is not None:
        kept = f"{100 * result.flops.keep_ratio['mean']:.1f} %"
        ideal = f"{result.flops.ideal_speedup:.2f}"
        share = f"{100 * result.speedup.median / result.flops.ideal_speedup:.0f} %"
    peak = "" if result.peak is None else f"{result.peak.peak_mib:.0f}"
    time = f"{_milliseconds(result, batches):.1f}"
    return (result.spec.name, kept, time, speedup, quantiles, ideal, share, peak) + _saved_cells(
        case, result
    ) * training


def _saved_cells(case: CaseResult, result: VariantResult) -> tuple[str, ...]:
    saved = _activations(case, result)
    return ("", "") if saved is None else (f"{saved['saved_mib']:.1f}", f"{100 * saved['share']:.0f} %")


def _milliseconds(result: VariantResult, batches: int) -> float:
    return 1000.0 * median(result.seconds) / batches


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
