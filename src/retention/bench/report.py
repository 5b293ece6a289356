"""Results as a table and as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from retention.bench.case import Case, Row
from retention.bench.plan import Plan
from retention.records import Record, Speed, build_record

_HEADER = ("variant", "kept", "ms/batch", "speed-up", "10-90 %", "ideal", "of ideal", "peak MiB")


def table(plan: Plan, case: Case) -> str:
    """The case as aligned text, one line per variant."""
    settings, note = plan.settings, case.note
    title = (
        f"{settings.phase}: {plan.backbone.name}, length {case.length}, batch {case.batch_size}, {settings.dtype} on "
        f"{settings.device}, {case.threads} thread{'s' * (case.threads > 1)}, "
        f"{settings.rounds} rounds of {settings.batches} batches"
    )
    rows = f"{note['rows']} texts: {note['source']}; mean {note['mean_length']:.0f} tokens"
    lines = _aligned([_HEADER, *(_cells(case, row, settings.batches) for row in case.rows)])
    notes = [f"speed-up against {case.baseline}, round by round; ideal = FLOPs on real tokens, scorers included"]
    for name, cost in case.scoring.items():
        low, high = f"{100 * cost.low:+.1f}", f"{100 * cost.high:+.1f}"
        notes.append(f"scoring alone ({name}, nothing removed): {100 * cost.median:+.1f} % of dense ({low} to {high})")
    return "\n".join([title, f"{rows}, {100 * note['padding']:.1f} % padding", "", *lines, "", *notes]) + "\n"


def records(plan: Plan, case: Case, argv: Sequence[str]) -> list[Record]:
    """One speed record per policy and share.

    Besides the fields of ``Speed``: ``kept_share`` and ``data`` as in quality records; ``timing`` with the milliseconds
    per batch (median over rounds) of the policy and of every dense variant, rounds, warm-up, threads and what scoring
    alone costs; ``rest_mib`` and ``baseline_rest_mib``, memory in use before the first batch.
    """
    return [_record(plan, case, row, argv) for row in case.rows if row.ledger is not None]


def _record(plan: Plan, case: Case, row: Row, argv: Sequence[str]) -> Record:
    settings, baseline = plan.settings, case.row(case.baseline)
    if row.ledger is None or row.spec.contender is None:
        raise ValueError(f"{row.spec.name} removes nothing, so there is no speed-up to record")
    contender = plan.contenders[row.spec.contender]
    speed = Speed(
        phase=settings.phase,
        backbone=plan.backbone.name,
        device=settings.device,
        dtype=settings.dtype,
        batch=case.batch_size,
        length=case.length,
        policy=contender.name,
        rho=contender.policy.rho,
        baseline=case.baseline,
        speedup=row.speedup.as_dict(),
        ideal_speedup=row.ledger.ideal_speedup,
        share_of_ideal=row.speedup.median / row.ledger.ideal_speedup,
        peak_mib=None if row.peak is None else row.peak.peak_mib,
        baseline_peak_mib=None if baseline.peak is None else baseline.peak.peak_mib,
        memory_kind=None if row.peak is None else row.peak.kind,
    )
    config = {"bench": asdict(settings), "backbone": plan.backbone_node, "retention": contender.node}
    record = build_record(speed, config=config, seed=settings.seed, wall_s=case.wall_s, argv=argv)
    cost = case.scoring.get(contender.name)
    record["kept_share"] = row.ledger.kept_share
    record["place"] = contender.place
    record["data"] = case.note
    record["timing"] = {
        "ms_per_batch": _milliseconds(row, settings.batches),
        "dense_ms_per_batch": {
            other.spec.name: _milliseconds(other, settings.batches)
            for other in case.rows
            if other.spec.contender is None
        },
        "rounds": settings.rounds,
        "warmup": settings.warmup,
        "threads": case.threads,
        "scoring_share": None if cost is None else cost.as_dict(),
    }
    record["rest_mib"] = None if row.peak is None else row.peak.rest_mib
    record["baseline_rest_mib"] = None if baseline.peak is None else baseline.peak.rest_mib
    return record


def _cells(case: Case, row: Row, batches: int) -> tuple[str, ...]:
    speed = "baseline" if row.spec.name == case.baseline else f"{row.speedup.median:.2f}"
    spread = "" if row.spec.name == case.baseline else f"{row.speedup.low:.2f}-{row.speedup.high:.2f}"
    kept, ideal, share = "100.0 %", "", ""
    if row.ledger is not None:
        kept = f"{100 * row.ledger.kept_share['mean']:.1f} %"
        ideal = f"{row.ledger.ideal_speedup:.2f}"
        share = f"{100 * row.speedup.median / row.ledger.ideal_speedup:.0f} %"
    peak = "" if row.peak is None else f"{row.peak.peak_mib:.0f}"
    return row.spec.name, kept, f"{_milliseconds(row, batches):.1f}", speed, spread, ideal, share, peak


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
