"""The ledger of claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reproduction.claims.claim import Claim, Finding, Verdict
from reproduction.claims.ledger import all_claims, ledger
from reproduction.sources import Evidence, cite, committed_files, read_evidence

from retention.records import append_record

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., dict[str, Any]]
DENSE = (0.90, 0.91, 0.92)


def claim(*parts: str) -> Claim:
    """The one claim whose text has all the parts."""
    found = [claim for claim in all_claims() if all(part in claim.text for part in parts)]
    assert len(found) == 1, [claim.text for claim in found]
    return found[0]


def finding(claimed: Claim, records: list[dict[str, Any]]) -> Finding:
    found = list(claimed.check(Evidence(tuple(records))))
    assert len(found) == 1
    return found[0]


def series(make: Make, policy: str, rho: float, values: tuple[float, ...], **changes: Any) -> list[dict[str, Any]]:
    return [make(policy, rho, value, seed, **changes) for seed, value in enumerate(values)]


def test_the_committed_ledger_is_what_the_committed_records_say() -> None:
    made = ledger(read_evidence(committed_files(ROOT), ROOT))
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == made, "run `make claims`"


def test_without_records_nothing_is_claimed() -> None:
    found = [finding for claimed in all_claims() for finding in claimed.check(Evidence(()))]
    assert {finding.verdict for finding in found} == {Verdict.NOT_TESTABLE}
    page = ledger(Evidence(()))
    totals = next(line for line in page.splitlines() if line.startswith("| all "))
    assert [cell.strip() for cell in totals.split("|")][2:5] == ["0", "0", "0"]
    assert all(claimed.text in page for claimed in all_claims()), "what was not run is folded away, not left out"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.89, 0.90, 0.91), Verdict.REPRODUCED),
        ((0.80, 0.81, 0.82), Verdict.NOT_REPRODUCED),
        ((0.80, 0.87, 0.92), Verdict.UNDECIDED),  # the interval lies across 95 %
        ((0.89, 0.90), Verdict.UNDECIDED),  # a seed is missing
    ],
)
def test_95_per_cent_of_dense(quality: Make, values: tuple[float, ...], verdict: Verdict) -> None:
    records = [*series(quality, "dense", 1.0, DENSE), *series(quality, "adaptive", 0.3, values)]
    found = finding(claim("SST-2 accuracy at 30 %", "of the dense model"), records)
    assert found.verdict is verdict
    assert f"{len(values)}" in found.measured and "distilbert; SST-2 (GLUE)" in found.setting
    assert len(found.records) == len(values) + len(DENSE)


def test_a_stand_in_reproduces_nothing(quality: Make) -> None:
    other = {"data": {"source": "stand-in sentences", "train": 9, "test": 5}}
    records = [*series(quality, "dense", 1.0, DENSE, **other), *series(quality, "adaptive", 0.3, DENSE, **other)]
    found = finding(claim("SST-2 accuracy at 30 %", "of the dense model"), records)
    assert found.verdict is Verdict.NOT_RUN and "100.0 % of dense" in found.measured and "STAND-IN" in found.setting


@pytest.mark.parametrize(
    ("ablated", "verdict"),
    [
        ((0.80, 0.81, 0.82), Verdict.REPRODUCED),
        ((0.95, 0.96, 0.97), Verdict.NOT_REPRODUCED),
        ((0.85, 0.91, 0.95), Verdict.UNDECIDED),
    ],
)
def test_the_sign_of_an_ablation(quality: Make, ablated: tuple[float, ...], verdict: Verdict) -> None:
    records = [*series(quality, "adaptive", 0.5, DENSE), *series(quality, "threshold", 0.5, ablated)]
    assert finding(claim("SST-2 accuracy at 50 %", "threshold pruning"), records).verdict is verdict


def test_an_ablation_is_held_against_runs_that_were_trained_alike(quality: Make) -> None:
    policy = {"_target_": "x.adaptive", "beta": 0.66, "gamma": -0.1, "zeta": 1.1}
    sampled = {"prune_at": "after_layer", "budgets": {"sampled": 1}, "retention": policy}
    own = [*series(quality, "adaptive", 0.5, DENSE), *series(quality, "adaptive", 0.5, DENSE, config=sampled)]
    other = series(quality, "threshold", 0.5, (0.80, 0.81, 0.82))
    found = finding(claim("SST-2 accuracy at 50 %", "threshold pruning"), [*own, *other])
    assert "sampled" not in found.setting and found.verdict is Verdict.REPRODUCED


def test_where_the_paper_has_the_ablation_ahead_the_sign_turns(quality: Make) -> None:
    metrics = [{"metrics": {"extractive_em": value, "answer_f1": 0.5}} for value in (0.5, 0.6)]
    qasper = {"task": "qasper", "monitor": "answer_f1"}
    qasper["data"] = {"source": "QASPER v0.3 (rows are papers)", "train": 2593, "test": 1005}  # type: ignore[assignment]
    own = [quality("adaptive", 0.3, None, seed, **qasper, **metrics[0]) for seed in range(3)]
    other = [quality("adaptive_no_relaxation", 0.3, None, seed, **qasper, **metrics[1]) for seed in range(3)]
    claimed = claim("QASPER EM at 30 %", "behind no variational relaxation")  # 39.8 against 40.0
    assert finding(claimed, [*own, *other]).verdict is Verdict.REPRODUCED


def test_speed_memory_and_overhead(speed: Make) -> None:
    measured = {"timing": {"threads": 2, "scoring_share": {"median": 0.01, "low": 0.0, "high": 0.03}}}
    record = speed("adaptive", 0.3, 1.9, peak_mib=60.0, baseline_peak_mib=100.0, **measured)
    assert finding(claim("1.8x the throughput"), [record]).verdict is Verdict.REPRODUCED
    assert finding(claim("less than 2 % of latency"), [record]).verdict is Verdict.UNDECIDED  # up to 3 %
    leaner = finding(claim("less peak memory at 30 %"), [record])
    assert (leaner.verdict, leaner.measured[:7]) == (Verdict.REPRODUCED, "-40.0 %")
    slower = speed("adaptive", 0.3, 1.7, peak_mib=90.0, baseline_peak_mib=100.0)
    assert finding(claim("1.8x the throughput"), [slower]).verdict is Verdict.NOT_REPRODUCED
    assert finding(claim("less peak memory at 30 %"), [slower]).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(("far", "verdict"), [(0.895, Verdict.REPRODUCED), (0.8, Verdict.NOT_REPRODUCED)])
def test_plateaus(quality: Make, far: float, verdict: Verdict) -> None:
    records = []
    for beta, value in ((0.5, 0.9), (0.66, 0.9), (1.0, far), (1.5, 0.1)):  # 1.5 lies outside the plateau
        records += series(quality, "adaptive", 0.3, (value,) * 3, knobs={"beta": beta})
    assert finding(claim("SST-2: beta"), records).verdict is verdict


def test_kept_shares_must_average_the_budget(quality: Make) -> None:
    claimed = claim("SST-2 at 30 %", "kept shares by layer")
    off = {"keep_ratio": {"mean": 0.42, "by_layer": {"0": 0.45, "1": 0.39}}}
    assert finding(claimed, [quality("adaptive", 0.3, 0.9)]).verdict is Verdict.REPRODUCED
    assert finding(claimed, [quality("adaptive", 0.3, 0.9, **off)]).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(("bound", "verdict"), [(0.2, Verdict.REPRODUCED), (0.1, Verdict.NOT_REPRODUCED)])
def test_the_slack_is_weighed_by_the_multipliers(quality: Make, bound: float, verdict: Verdict) -> None:
    slack = {"slack_bound": bound, "price": {"0": 3.0, "1": 1.0}, "by_layer": {"0": 0.2, "1": 0.0}}  # mean 0.15
    record = quality("adaptive", 0.3, 0.9, training={"slack": slack})
    assert finding(claim("Proposition 1"), [record]).verdict is verdict


def test_records_are_read_with_their_places_and_trials_are_not(tmp_path: Path, quality: Make) -> None:
    for folder in ("quality", "speed", "trials"):
        append_record(tmp_path / "results" / folder / "a.jsonl", {"kind": "quality", "commit": "f" * 40 + "-dirty"})
    append_record(tmp_path / "results" / "quality" / "a.jsonl", {"kind": "quality", "date": "2026-01-02T03:04:05"})
    evidence = read_evidence(committed_files(tmp_path), tmp_path)
    assert [record["at"] for record in evidence.records] == [
        "results/quality/a.jsonl:1",
        "results/quality/a.jsonl:2",
        "results/speed/a.jsonl:1",
    ]
    assert cite(evidence.records[:2]) == "results/quality/a.jsonl:1,2 (2026-01-02/undated, ffffffff-dirty/unknown)"
