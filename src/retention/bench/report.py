"""Results as a table and as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from retention.bench.case import Case, Row
from retention.bench.plan import Plan
from retention.records import Record, Speed, build_record

_HEADER = ("variant", "kept", "ms/batch", "speed-up", "10-90 %", "ideal", "of ideal", "peak MiB")
_SAVED_HEADER = ("saved MiB", "of dense")


def table(plan: Plan, case: Case) -> str:
    """The case as aligned text, one line per variant."""
    settings, note = plan.settings, case.note
    title = (
        f"{settings.phase}: {plan.backbone.name}, length {case.length}, batch {case.batch_size}, {settings.dtype} on "
        f"{settings.device}, {case.threads} thread{'s' * (case.threads > 1)}, "
        f"{settings.rounds} rounds of {settings.batches} batches"
    )
    rows = f"{note['rows']} texts: {note['source']}; mean {note['mean_length']:.0f} tokens"
    training = settings.phase == "train"
    header = _HEADER + _SAVED_HEADER * training
    lines = _aligned([header, *(_cells(case, row, settings.batches, training) for row in case.rows)])
    notes = [f"speed-up against {case.baseline}, round by round; ideal = FLOPs on real tokens, scorers included"]
    notes += ["saved = activations that a step keeps for its backward pass, per batch"] * training
    notes += [f"{name} is left out: {reason}" for name, reason in case.unavailable.items()]
    for name, cost in case.scoring.items():
        low, high = f"{100 * cost.low:+.1f}", f"{100 * cost.high:+.1f}"
        notes.append(f"scoring alone ({name}, nothing removed): {100 * cost.median:+.1f} % of dense ({low} to {high})")
    notes += _layers(case)
    return "\n".join([title, f"{rows}, {100 * note['padding']:.1f} % padding", "", *lines, "", *notes]) + "\n"


def records(plan: Plan, case: Case, argv: Sequence[str]) -> list[Record]:
    """One speed record per policy and share.

    Besides the fields of ``Speed``: ``keep_ratio`` and ``data`` as in quality records; ``timing`` with the milliseconds
    per batch (median over rounds) of the policy and of every dense variant, rounds, warm-up, threads and what scoring
    alone costs; ``rest_mib`` and ``baseline_rest_mib``, memory in use before the first batch; ``gflops_by_layer`` of a
    batch, ``dense`` and ``policy``; ``activations`` of a training step, see there; ``unavailable``, dense variants that
    the platform could not run, with the reason.
    """
    return [_record(plan, case, row, argv) for row in case.rows if row.ledger is not None]


def _record(plan: Plan, case: Case, row: Row, argv: Sequence[str]) -> Record:
    settings, baseline = plan.settings, case.row(case.baseline)
    if row.ledger is None or row.spec.candidate is None:
        raise ValueError(f"{row.spec.name} removes nothing, so there is no speed-up to record")
    candidate = plan.candidates[row.spec.candidate]
    speed = Speed(
        phase=settings.phase,
        backbone=plan.backbone.name,
        device=settings.device,
        dtype=settings.dtype,
        batch=case.batch_size,
        length=case.length,
        policy=candidate.name,
        rho=candidate.policy.rho,
        baseline=case.baseline,
        speedup=row.speedup.as_dict(),
        ideal_speedup=row.ledger.ideal_speedup,
        share_of_ideal=row.speedup.median / row.ledger.ideal_speedup,
        peak_mib=None if row.peak is None else row.peak.peak_mib,
        baseline_peak_mib=None if baseline.peak is None else baseline.peak.peak_mib,
        memory_kind=None if row.peak is None else row.peak.kind,
    )
    config = {"bench": asdict(settings), "backbone": plan.backbone_node, "retention": candidate.node}
    record = build_record(speed, config=config, seed=settings.seed, wall_s=case.wall_s, argv=argv)
    cost = case.scoring.get(candidate.name)
    record["keep_ratio"] = row.ledger.keep_ratio
    record["prune_at"] = candidate.prune_at
    record["data"] = case.note
    record["timing"] = {
        "ms_per_batch": _milliseconds(row, settings.batches),
        "dense_ms_per_batch": {
            other.spec.name: _milliseconds(other, settings.batches)
            for other in case.rows
            if other.spec.candidate is None
        },
        "rounds": settings.rounds,
        "warmup": settings.warmup,
        "threads": case.threads,
        "scoring_share": None if cost is None else cost.as_dict(),
    }
    record["gflops_by_layer"] = row.ledger.gflops_by_layer
    record["activations"] = _activations(case, row)
    record["unavailable"] = case.unavailable
    record["rest_mib"] = None if row.peak is None else row.peak.rest_mib
    record["baseline_rest_mib"] = None if baseline.peak is None else baseline.peak.rest_mib
    return record


def _activations(case: Case, row: Row) -> dict[str, Any] | None:
    """What a training step keeps for its backward pass, in MiB per batch, of the policy and of the baseline.

    ``saved_by_layer`` is cumulative: in use when each layer has run. A compiled model has no layers to watch, so that
    of the dense model is from the first dense variant.
    """
    baseline, dense = case.row(case.baseline).activations, case.rows[0].activations
    if row.activations is None or baseline is None or dense is None:
        return None
    return {
        "saved_mib": row.activations.saved_mib,
        "baseline_saved_mib": baseline.saved_mib,
        "share": row.activations.saved_mib / baseline.saved_mib,
        "saved_by_layer": list(row.activations.by_layer),
        "dense_saved_by_layer": list(dense.by_layer),
    }


def _layers(case: Case) -> list[str]:
    """Where the FLOPs go: one line for the dense model, one per policy and share."""
    spent = {row.spec.name: row.ledger.gflops_by_layer for row in case.rows if row.ledger is not None}
    if not spent:
        return []
    lines = [("GFLOPs per batch in layer", *(str(layer) for layer in range(len(next(iter(spent.values()))["dense"]))))]
    lines.append(("dense", *(f"{value:.3g}" for value in next(iter(spent.values()))["dense"])))
    lines += [(name, *(f"{value:.3g}" for value in costs["policy"])) for name, costs in spent.items()]
    return ["", *_aligned(lines)]


def _cells(case: Case, row: Row, batches: int, training: bool) -> tuple[str, ...]:
    speed = "baseline" if row.spec.name == case.baseline else f"{row.speedup.median:.2f}"
    spread = "" if row.spec.name == case.baseline else f"{row.speedup.low:.2f}-{row.speedup.high:.2f}"
    kept, ideal, share = "100.0 %", "", ""
    if row.ledger is not None:
        kept = f"{100 * row.ledger.keep_ratio['mean']:.1f} %"
        ideal = f"{row.ledger.ideal_speedup:.2f}"
        share = f"{100 * row.speedup.median / row.ledger.ideal_speedup:.0f} %"
    peak = "" if row.peak is None else f"{row.peak.peak_mib:.0f}"
    cells = (row.spec.name, kept, f"{_milliseconds(row, batches):.1f}", speed, spread, ideal, share, peak)
    return cells + _saved_cells(case, row) * training


def _saved_cells(case: Case, row: Row) -> tuple[str, ...]:
    account = _activations(case, row)
    return ("", "") if account is None else (f"{account['saved_mib']:.1f}", f"{100 * account['share']:.0f} %")


def _milliseconds(row: Row, batches: int) -> float:
    return 1000.0 * median(row.seconds) / batches


def _aligned(body: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(line[place]) for line in body) for place in range(len(body[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in body
    ]
