"""Check claims on speed, memory and the scorer's cost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from reproduction.claims.claim import Claim, Finding, Verdict, at_least, not_testable
from reproduction.cost_report import RHO, memory_change
from reproduction.paper import ABLATIONS, ADAPTIVE, BUDGETS, COSTS
from reproduction.sources import RecordSet
from reproduction.speeds import SpeedConditions, format_speedup, group_speeds, of_policy
from retention.report.grouping import Record
from retention.report.intervals import Estimate

SAVED_MEMORY = (0.35, 0.45)  # of peak memory, abstract
SCORER_COST = 0.02  # of latency, section on cost
_AS_IN_PAPER = ("linear", "after_layer", False)  # schedule, pruning location, gate before layer 0
_TOPIC = "Speed, memory and scorer cost"


def cost_claims() -> list[Claim]:
    """Return the claims of Table 4, of the abstract, and on the throughput of Table 3's ablations."""
    speedup = COSTS[ADAPTIVE.title].speedup
    claims = [
        Claim(
            _TOPIC,
            f"up to {speedup:.1f}x the throughput of the dense model at {100 * RHO:.0f} %",
            "abstract, Table 4",
            partial(_check_speedup, minimum=speedup),
            up_to=True,
        ),
        Claim(_TOPIC, "the scorer costs less than 2 % of latency", "section on cost", _check_scorer_cost),
    ]
    claims += [
        Claim(
            _TOPIC,
            f"{100 * SAVED_MEMORY[0]:.0f}-{100 * SAVED_MEMORY[1]:.0f} % less peak memory at {100 * rho:.0f} %",
            "abstract",
            partial(_check_memory, rho=rho),
        )
        for rho in BUDGETS
    ]
    claims += [
        Claim(
            _TOPIC,
            f"the full method is faster than {ablation.title} "
            f"(paper: {speedup:.2f}x against {COSTS[ablation.title].speedup:.2f}x)",
            "Table 3",
            partial(_check_faster_than, policy=ablation.policy),
        )
        for ablation in ABLATIONS
    ]
    absolute = "absolute figures depend on the paper's machine, which is not named beyond its 12 GB of memory"
    other = "a speedup across encoders compares two architectures; ours are measured within one encoder"
    claims += [
        Claim(_TOPIC, "0.48 s per batch dense, 0.27 s pruned; 7.5 GB", "Tables 3-4", not_testable(absolute)),
        Claim(_TOPIC, "faster than Longformer (1.55x) and BigBird (1.45x)", "Table 4", not_testable(other)),
    ]
    return claims


def _check_speedup(records: RecordSet, *, minimum: float) -> Iterator[Finding]:
    for conditions, record in _measurements(records, RHO):
        speedup = _range(record["speedup"])
        verdict = at_least(speedup, minimum)
        yield Finding(verdict, format_speedup(record), conditions.describe(), (record,), (speedup.low or 0.0,))


def _check_scorer_cost(records: RecordSet) -> Iterator[Finding]:
    """Yield one finding per measurement of scoring, which all keep ratios of a bench run have in common."""
    seen: set[tuple[Any, ...]] = set()
    for rho in sorted({float(record["rho"]) for record in records.speeds}):
        for conditions, record in _measurements(records, rho):
            cost = (record.get("timing") or {}).get("scoring_share")
            # Nothing is pruned while scoring is timed, so the pruning location makes no difference.
            key = (*[getattr(conditions, name) for name in _SCORER_CONDITIONS], str(cost))
            if cost is None or key in seen:
                continue
            seen.add(key)
            measured = f"{100 * cost['median']:+.1f} % ({100 * cost['low']:+.1f} to {100 * cost['high']:+.1f})"
            negative = Estimate(-cost["median"], -cost["high"], -cost["low"], 0)
            verdict = at_least(negative, -SCORER_COST)
            if negative.low is not None and negative.low > 0:  # no cost is below 0: the noise is larger than the cost
                verdict = Verdict.INCONCLUSIVE
            yield Finding(verdict, measured, conditions.describe_without_pruning(), (record,), _tokens(conditions))


_SCORER_CONDITIONS = ("backbone", "source", "length", "batch", "machine")


def _check_memory(records: RecordSet, *, rho: float) -> Iterator[Finding]:
    yield from _check_activations(records, rho=rho)
    for conditions, record in _measurements(records, rho):
        change, without_resident = memory_change(record), memory_change(record, without_resident=True)
        if change is None:
            continue
        verdict = Verdict.REPRODUCED if -change >= SAVED_MEMORY[0] else Verdict.NOT_REPRODUCED
        parts = [f"{100 * change:+.1f} % ({record.get('memory_kind') or 'unnamed measure'})"]
        if without_resident is not None:
            parts.append(f"{100 * without_resident:+.1f} % of what comes on top of weights and libraries")
        activations = (record.get("activations") or {}).get("share")
        if activations is not None:
            parts.append(f"{100 * (activations - 1):+.1f} % of the activations kept for the backward pass")
        yield Finding(verdict, "; ".join(parts), conditions.describe(), (record,), (0.0, *_tokens(conditions)))


def _check_activations(records: RecordSet, *, rho: float) -> Iterator[Finding]:
    """Yield one finding per setting of ``retention bench-memory``: sums of live tensors at inference."""
    for record in records.records:
        if record["kind"] != "inference_memory":
            continue
        for entry in record["pruned"]:
            if entry["rho"] != rho:
                continue
            before = "a gate" if entry["gate_before_layer_0"] else "no gate"
            setup = (
                f"inference, {record['backbone']}, {record['attention']}, {record['length']} tokens, batch "
                f"{record['batch']}; {entry['schedule']} schedule, pruning {entry['prune_at'].replace('_', ' ')}, "
                f"{before} before layer 0"
            )
            verdict = Verdict.REPRODUCED if -entry["change"] >= SAVED_MEMORY[0] else Verdict.NOT_REPRODUCED
            measured = f"{100 * entry['change']:+.1f} % (peak of live activations)"
            settings = (entry["schedule"], entry["prune_at"], entry["gate_before_layer_0"])
            weight = (float(settings == _AS_IN_PAPER), float(record["batch"] * record["length"]))
            yield Finding(verdict, measured, setup, (record,), weight)


def _check_faster_than(records: RecordSet, *, policy: str) -> Iterator[Finding]:
    """Compare two speedups under the same conditions: both are relative to the same dense baseline."""
    for conditions, group in group_speeds(records.speeds).items():
        for ours in of_policy(group, ADAPTIVE.policy, RHO):
            for other in of_policy(group, policy, RHO):
                ours_range, other_range = _range(ours["speedup"]), _range(other["speedup"])
                verdict = at_least(ours_range, other_range.high or other_range.mean)
                if ours_range.below(other_range.low or other_range.mean):
                    verdict = Verdict.NOT_REPRODUCED
                elif verdict is not Verdict.REPRODUCED:
                    verdict = Verdict.INCONCLUSIVE
                measured = f"{format_speedup(ours)} against {format_speedup(other)}"
                yield Finding(verdict, measured, conditions.describe(), (ours, other), _tokens(conditions))


def _measurements(records: RecordSet, rho: float) -> Iterator[tuple[SpeedConditions, Record]]:
    for conditions, group in group_speeds(records.speeds).items():
        for record in of_policy(group, ADAPTIVE.policy, rho):
            yield conditions, record


def _tokens(conditions: SpeedConditions) -> tuple[float, ...]:
    """Return tokens per batch: the largest workload weighs most."""
    return (float(conditions.batch * conditions.length),)


def _range(speedup: dict[str, float]) -> Estimate:
    return Estimate(speedup["median"], speedup["low"], speedup["high"], 0)
