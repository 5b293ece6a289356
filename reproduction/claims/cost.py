"""Claims on speed, memory and the scorer's own cost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from reproduction.claims.claim import Claim, Finding, Verdict, at_least, not_testable
from reproduction.cost_report import memory_change
from reproduction.paper import ABLATIONS, ADAPTIVE, BUDGETS, COSTS
from reproduction.runs import Record
from reproduction.sources import Evidence
from reproduction.speeds import Setting, of_policy, sort_speeds, turns
from retention.report.intervals import Estimate

SAVED = (0.35, 0.45)  # peak memory, abstract
OVERHEAD = 0.02  # of latency, section on cost
_TOPIC = "Speed, memory and overhead"
_RHO = 0.3


def cost_claims() -> list[Claim]:
    """Table 4, the abstract, and the throughput of Table 3's ablations."""
    speedup = COSTS[ADAPTIVE.title].speedup
    claims = [
        Claim(
            _TOPIC,
            f"up to {speedup:.1f}x the throughput of the dense model at {100 * _RHO:.0f} %",
            "abstract, Table 4",
            partial(_faster, least=speedup),
        ),
        Claim(_TOPIC, "the scorer costs less than 2 % of latency", "section on cost", _overhead),
    ]
    claims += [
        Claim(
            _TOPIC,
            f"{100 * SAVED[0]:.0f}-{100 * SAVED[1]:.0f} % less peak memory at {100 * rho:.0f} %",
            "abstract",
            partial(_leaner, rho=rho),
        )
        for rho in BUDGETS
    ]
    claims += [
        Claim(
            _TOPIC,
            f"the full method is faster than {ablation.title} "
            f"(paper: {speedup:.2f}x against {COSTS[ablation.title].speedup:.2f}x)",
            "Table 3",
            partial(_faster_than, policy=ablation.policy),
        )
        for ablation in ABLATIONS
    ]
    absolute = "absolute figures depend on the paper's machine, which is not named beyond its 12 GB of memory"
    other = "a speed-up across encoders compares two architectures; ours are measured within one encoder"
    claims += [
        Claim(_TOPIC, "0.48 s per batch dense, 0.27 s pruned; 7.5 GB", "Tables 3-4", not_testable(absolute)),
        Claim(_TOPIC, "faster than Longformer (1.55x) and BigBird (1.45x)", "Table 4", not_testable(other)),
    ]
    return claims


def _faster(evidence: Evidence, *, least: float) -> Iterator[Finding]:
    for setting, record in _own(evidence, _RHO):
        yield _finding(setting, record, at_least(_range(record["speedup"]), least), turns(record))


def _overhead(evidence: Evidence) -> Iterator[Finding]:
    """One finding per measurement of scoring alone, which the shares of a run have in common."""
    seen: set[tuple[Any, ...]] = set()
    for rho in sorted({float(record["rho"]) for record in evidence.speeds}):
        for setting, record in _own(evidence, rho):
            cost = (record.get("timing") or {}).get("scoring_share")
            case = (setting.backbone, setting.source, setting.length, setting.batch, setting.machine, str(cost))
            if cost is None or case in seen:
                continue
            seen.add(case)
            measured = f"{100 * cost['median']:+.1f} % ({100 * cost['low']:+.1f} to {100 * cost['high']:+.1f})"
            left = Estimate(-cost["median"], -cost["high"], -cost["low"], 0)
            where = setting.conditions()  # nothing is removed while scoring is timed
            yield Finding(at_least(left, -OVERHEAD), measured, where, (record,))


def _leaner(evidence: Evidence, *, rho: float) -> Iterator[Finding]:
    for setting, record in _own(evidence, rho):
        change, without = memory_change(record), memory_change(record, without_rest=True)
        if change is None:
            continue
        verdict = Verdict.REPRODUCED if -change >= SAVED[0] else Verdict.NOT_REPRODUCED
        rest = "" if without is None else f"; {100 * without:+.1f} % of what comes on top of weights and libraries"
        saved = (record.get("activations") or {}).get("share")
        rest += "" if saved is None else f"; {100 * (saved - 1):+.1f} % of the activations kept for the backward pass"
        kind = record.get("memory_kind") or "unnamed measure"
        yield _finding(setting, record, verdict, f"{100 * change:+.1f} % ({kind}){rest}")


def _faster_than(evidence: Evidence, *, policy: str) -> Iterator[Finding]:
    """Both speed-ups of one setting are against the same dense baseline, so their ranges may be compared."""
    for setting, group in sort_speeds(evidence.speeds).items():
        for own in of_policy(group, ADAPTIVE.policy, _RHO):
            for other in of_policy(group, policy, _RHO):
                left, right = _range(own["speedup"]), _range(other["speedup"])
                verdict = at_least(left, right.high or right.mean)
                if left.below(right.low or right.mean):
                    verdict = Verdict.NOT_REPRODUCED
                elif verdict is not Verdict.REPRODUCED:
                    verdict = Verdict.UNDECIDED
                yield Finding(verdict, f"{turns(own)} against {turns(other)}", setting.label(), (own, other))


def _own(evidence: Evidence, rho: float) -> Iterator[tuple[Setting, Record]]:
    for setting, group in sort_speeds(evidence.speeds).items():
        for record in of_policy(group, ADAPTIVE.policy, rho):
            yield setting, record


def _range(speedup: dict[str, float]) -> Estimate:
    return Estimate(speedup["median"], speedup["low"], speedup["high"], 0)


def _finding(setting: Setting, record: Record, verdict: Verdict, measured: str) -> Finding:
    return Finding(verdict, measured, setting.label(), (record,))
