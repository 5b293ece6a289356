"""Claims and their verdicts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reproduction.claims import LEDGER, claims_ledger
from reproduction.claims.checked import all_claims
from reproduction.claims.claim import BY_CONSTRUCTION, Claim, Finding, Verdict, overall_verdict, strongest
from reproduction.claims.page import claims_page
from reproduction.sources import RecordSet, cite, committed_files, read_record_set
from reproduction.speeds import group_speeds

from retention.records import append_record

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., dict[str, Any]]
DENSE = (0.90, 0.91, 0.92)


def claim(*parts: str) -> Claim:
    """Return the one claim whose text has all the parts."""
    matches = [claim for claim in all_claims() if all(part in claim.text for part in parts)]
    assert len(matches) == 1, [claim.text for claim in matches]
    return matches[0]


def finding(checked: Claim, records: list[dict[str, Any]]) -> Finding:
    findings = list(checked.check(RecordSet(tuple(records))))
    assert len(findings) == 1
    return findings[0]


def series(make: Make, policy: str, rho: float, values: tuple[float, ...], **changes: Any) -> list[dict[str, Any]]:
    return [make(policy, rho, value, seed, **changes) for seed, value in enumerate(values)]


def test_committed_page_matches_the_committed_records() -> None:
    records = read_record_set(committed_files(ROOT), ROOT)
    for name, made in (("claims.md", claims_page(records)), (LEDGER, claims_ledger(records))):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run `make claims`"


def test_without_records_no_claim_is_decided() -> None:
    findings = [finding for checked in all_claims() for finding in checked.check(RecordSet(()))]
    assert {finding.verdict for finding in findings} == {Verdict.NOT_TESTABLE}
    for page in (claims_page(RecordSet(())), claims_ledger(RecordSet(()))):
        totals = next(line for line in page.splitlines() if line.startswith("| all "))
        assert [cell.strip() for cell in totals.split("|")][2:5] == ["0", "0", "0"]
        assert all(checked.text in page for checked in all_claims()), "claims without a run are folded, not left out"


def table_lines(page: str, text: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(f"| {text}")]


def test_claim_has_one_line_with_its_strongest_setup_and_random_pruning(quality: Make) -> None:
    """Three seeds on other rows outweigh one good seed; the ledger has a line per setup."""
    fewer = {"data": {"source": "SST-2 (GLUE)", "train": 900, "test": 90}}
    records = [
        *series(quality, "dense", 1.0, DENSE),
        *series(quality, "adaptive", 0.3, (0.80, 0.81, 0.82)),
        *series(quality, "random", 0.3, (0.45, 0.455, 0.46)),
        *series(quality, "dense", 1.0, (0.9,), **fewer),
        *series(quality, "adaptive", 0.3, (0.9,), **fewer),
    ]
    found = RecordSet(tuple(records))
    text = "SST-2 accuracy at 30 %: at least 95 %"
    [line] = table_lines(claims_page(found), text)
    assert "**not reproduced** (1 not reproduced, 1 inconclusive, [all 2 setups](claims_ledger.md#quality-rel" in line
    assert "| 89.0 % of dense" in line and "| 50.0 % of dense" in line and "100.0 % of dense" not in line
    ledger = table_lines(claims_ledger(found), text)
    assert len(ledger) == 2 and sum("random pruning: 50.0 % of dense" in each for each in ledger) == 1
    assert sum("random pruning: not run" in each for each in ledger) == 1


def test_random_pruning_counts_only_if_it_was_trained_alike(quality: Make) -> None:
    """Random runs with more epochs are another method, whatever they score."""
    longer = {"config": {"prune_at": "after_layer", "task": {"epochs": 9}, "retention": {"rho": 0.3}}}
    records = [
        *series(quality, "adaptive", 0.3, (0.80, 0.81, 0.82)),
        *series(quality, "random", 0.3, (0.45, 0.455, 0.46)),
        *series(quality, "random", 0.3, (0.95, 0.96, 0.97), **longer),
    ]
    checked = claim("SST-2 accuracy at 30 %: ahead of random")
    assert finding(checked, records).measured.startswith("+35.5 points")
    assert list(checked.check(RecordSet(tuple(records[:3] + records[6:])))) == []


def test_models_above_the_budget_decide_nothing_and_are_compared_with_their_like(quality: Make) -> None:
    """A floor of tokens can double the keep ratio of short rows; the target in the record stays the same."""
    kept = {"keep_ratio": {"mean": 0.63, "by_layer": {}}}
    ours, random = (0.90, 0.91, 0.92), (0.45, 0.455, 0.46)
    ahead, share = (claim(f"SST-2 accuracy at 30 %: {text}") for text in ("ahead of random", "at least 95 %"))
    dense = series(quality, "dense", 1.0, DENSE)
    above = series(quality, "adaptive", 0.3, ours, **kept)
    assert finding(share, [*dense, *above]).verdict is Verdict.INCONCLUSIVE
    assert finding(ahead, [*above, *series(quality, "random", 0.3, random, **kept)]).verdict is Verdict.INCONCLUSIVE
    within = series(quality, "adaptive", 0.3, ours)
    assert finding(share, [*dense, *within]).verdict is Verdict.REPRODUCED
    assert list(ahead.check(RecordSet((*within, *series(quality, "random", 0.3, random, **kept))))) == []


def test_the_paper_s_own_training_has_claims_of_its_own(quality: Make) -> None:
    records = [
        *series(quality, "dense", 1.0, DENSE),
        *series(quality, "paper", 0.3, (0.80, 0.81, 0.82)),
        *series(quality, "random", 0.3, (0.85, 0.86, 0.87)),
    ]
    for text in ("at least 95 %", "ahead of random"):
        assert finding(claim("trained as the paper describes", text), records).verdict is Verdict.NOT_REPRODUCED
        assert list(claim(f"SST-2 accuracy at 30 %: {text}").check(RecordSet(tuple(records)))) == []


def test_what_holds_by_construction_is_not_counted(quality: Make) -> None:
    page = claims_page(RecordSet((quality("adaptive", 0.3, 0.9),)))
    lines = [[cell.strip() for cell in line.split("|")[1:3]] for line in page.splitlines() if line.startswith("| ")]
    assert [line[1] for line in lines if line[0] in ("all", BY_CONSTRUCTION)] == ["0", "1"]


def test_seeds_that_draw_contracts_are_one_setup(quality: Make) -> None:
    """The contracts of each seed have another number of clauses."""
    rows = [{"data": {"source": "CUAD", "train": 5000 + n, "contracts": {"train": 200, "test": 100}}} for n in range(3)]
    records = [quality("dense", 1.0, DENSE[seed], seed, **rows[seed]) for seed in range(3)]
    [group] = RecordSet(tuple(records)).runs.all
    assert (len(group.records), group.setup.train, group.setup.test) == (3, "200", "100")


def test_overall_verdict_of_several_setups() -> None:
    one = Claim("", "", "", lambda records: [])
    up_to = Claim("", "", "", lambda records: [], up_to=True)
    good, bad, open_, none = (
        Finding(verdict)
        for verdict in (Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE, Verdict.NOT_RUN)
    )
    assert overall_verdict(one, [good, bad]) is Verdict.MIXED and overall_verdict(up_to, [bad, good]) is good.verdict
    assert overall_verdict(one, [good, open_]) is good.verdict and overall_verdict(up_to, [bad, none]) is bad.verdict
    assert overall_verdict(one, [none, open_]) is open_.verdict and overall_verdict(one, [none]) is none.verdict


def test_stand_in_data_is_the_weakest_evidence() -> None:
    stand_in = Finding(Verdict.NOT_RUN, "many seeds", weight=(9.0, 9.0))
    assert strongest([stand_in, Finding(Verdict.INCONCLUSIVE, "one seed", weight=(1.0, 1.0))]).measured == "one seed"
    assert strongest([stand_in]) is stand_in


def test_links_into_the_ledger_lead_to_headings() -> None:
    records = read_record_set(committed_files(ROOT), ROOT)
    page, ledger = claims_page(records), claims_ledger(records)
    anchors = set(re.findall(rf"{LEDGER}#([\w-]+)", page))
    headings = re.findall(r"^## (.*)$", ledger, re.M)
    assert anchors and anchors <= {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.89, 0.90, 0.91), Verdict.REPRODUCED),
        ((0.80, 0.81, 0.82), Verdict.NOT_REPRODUCED),
        ((0.80, 0.87, 0.92), Verdict.INCONCLUSIVE),  # the interval contains 95 %
        ((0.89, 0.90), Verdict.INCONCLUSIVE),  # a seed is missing
    ],
)
def test_ratio_to_dense(quality: Make, values: tuple[float, ...], verdict: Verdict) -> None:
    records = [*series(quality, "dense", 1.0, DENSE), *series(quality, "adaptive", 0.3, values)]
    result = finding(claim("SST-2 accuracy at 30 %:", "of the dense model"), records)
    assert result.verdict is verdict
    assert f"{len(values)}" in result.measured and "distilbert; SST-2 (GLUE)" in result.setup
    assert len(result.records) == len(values) + len(DENSE)


def test_without_a_dense_model_trained_alike_the_claim_is_inconclusive(quality: Make) -> None:
    config = {"distill": {"token_states": 1}, "retention": {}}
    records = [*series(quality, "dense", 1.0, DENSE), *series(quality, "adaptive", 0.3, DENSE, config=config)]
    result = finding(claim("SST-2 accuracy at 30 %:", "of the dense model"), records)
    assert result.verdict is Verdict.INCONCLUSIVE and "trained alike" in result.measured


def test_stand_in_data_decides_nothing(quality: Make) -> None:
    other = {"data": {"source": "stand-in sentences", "train": 9, "test": 5}}
    records = [*series(quality, "dense", 1.0, DENSE, **other), *series(quality, "adaptive", 0.3, DENSE, **other)]
    result = finding(claim("SST-2 accuracy at 30 %:", "of the dense model"), records)
    assert result.verdict is Verdict.NOT_RUN and "100.0 % of dense" in result.measured and "STAND-IN" in result.setup


@pytest.mark.parametrize(
    ("ablated", "verdict"),
    [
        ((0.80, 0.81, 0.82), Verdict.REPRODUCED),
        ((0.95, 0.96, 0.97), Verdict.NOT_REPRODUCED),
        ((0.85, 0.91, 0.95), Verdict.INCONCLUSIVE),
    ],
)
def test_ablation_verdicts(quality: Make, ablated: tuple[float, ...], verdict: Verdict) -> None:
    records = [*series(quality, "adaptive", 0.5, DENSE), *series(quality, "threshold", 0.5, ablated)]
    assert finding(claim("SST-2 accuracy at 50 %", "threshold pruning"), records).verdict is verdict


def test_ablation_is_compared_with_runs_trained_alike(quality: Make) -> None:
    policy = {"_target_": "x.adaptive", "beta": 0.66, "gamma": -0.1, "zeta": 1.1}
    sampled = {"prune_at": "after_layer", "budgets": {"sampled": 1}, "retention": policy}
    ours = [*series(quality, "adaptive", 0.5, DENSE), *series(quality, "adaptive", 0.5, DENSE, config=sampled)]
    other = series(quality, "threshold", 0.5, (0.80, 0.81, 0.82))
    result = finding(claim("SST-2 accuracy at 50 %", "threshold pruning"), [*ours, *other])
    assert "sampled" not in result.setup and result.verdict is Verdict.REPRODUCED


def test_ablation_that_the_paper_has_ahead(quality: Make) -> None:
    metrics = [{"metrics": {"extractive_em": value, "answer_f1": 0.5}} for value in (0.5, 0.6)]
    qasper = {"task": "qasper", "monitor": "answer_f1"}
    qasper["data"] = {"source": "QASPER v0.3 (rows are papers)", "train": 2593, "test": 1005}  # type: ignore[assignment]
    ours = [quality("adaptive", 0.3, None, seed, **qasper, **metrics[0]) for seed in range(3)]
    other = [quality("adaptive_no_relaxation", 0.3, None, seed, **qasper, **metrics[1]) for seed in range(3)]
    checked = claim("QASPER EM at 30 %", "behind no variational relaxation")  # 39.8 against 40.0
    assert finding(checked, [*ours, *other]).verdict is Verdict.REPRODUCED


def test_gradient_checkpointing_is_a_condition_of_a_measurement(speed: Make) -> None:
    recomputed = {"config": {"bench": {}, "backbone": {"gradient_checkpointing": True}}, "date": "2026-01-02"}
    groups = group_speeds([speed("adaptive", 0.3, 2.3), speed("adaptive", 0.3, 2.2, **recomputed)])
    assert [conditions.recomputed for conditions in groups] == [False, True]
    assert ["gradient checkpointing" in conditions.describe() for conditions in groups] == [False, True]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.04, -0.01, Verdict.INCONCLUSIVE), (-0.01, 0.01, Verdict.REPRODUCED), (0.03, 0.05, Verdict.NOT_REPRODUCED)],
)
def test_scorer_cost_below_zero_is_noise(speed: Make, low: float, high: float, verdict: Verdict) -> None:
    share = {"median": (low + high) / 2, "low": low, "high": high}
    record = speed("adaptive", 0.3, 1.9, timing={"threads": 2, "scoring_share": share})
    assert finding(claim("less than 2 % of latency"), [record]).verdict is verdict


def test_speed_memory_and_scorer_cost(speed: Make) -> None:
    measured = {"timing": {"threads": 2, "scoring_share": {"median": 0.01, "low": 0.0, "high": 0.03}}}
    record = speed("adaptive", 0.3, 1.9, peak_mib=60.0, baseline_peak_mib=100.0, **measured)
    assert finding(claim("1.8x the throughput"), [record]).verdict is Verdict.REPRODUCED
    assert finding(claim("less than 2 % of latency"), [record]).verdict is Verdict.INCONCLUSIVE  # up to 3 %
    leaner = finding(claim("less peak memory at 30 %"), [record])
    assert (leaner.verdict, leaner.measured[:7]) == (Verdict.REPRODUCED, "-40.0 %")
    slower = speed("adaptive", 0.3, 1.7, peak_mib=90.0, baseline_peak_mib=100.0)
    assert finding(claim("1.8x the throughput"), [slower]).verdict is Verdict.NOT_REPRODUCED
    assert finding(claim("less peak memory at 30 %"), [slower]).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(("change", "verdict"), [(-0.36, Verdict.REPRODUCED), (-0.09, Verdict.NOT_REPRODUCED)])
def test_activation_memory_at_inference(change: float, verdict: Verdict) -> None:
    entry = {"rho": 0.3, "schedule": "linear", "prune_at": "after_layer", "gate_before_layer_0": True, "change": change}
    record = {"kind": "inference_memory", "backbone": "b", "attention": "sdpa", "length": 8, "batch": 2}
    record = record | {"pruned": [entry, {**entry, "rho": 0.5}]}
    result = finding(claim("less peak memory at 30 %"), [record])
    assert result.verdict is verdict and f"{100 * change:+.1f} %" in result.measured
    assert "a gate before layer 0" in result.setup


@pytest.mark.parametrize(("far", "verdict"), [(0.895, Verdict.REPRODUCED), (0.8, Verdict.NOT_REPRODUCED)])
def test_plateaus(quality: Make, far: float, verdict: Verdict) -> None:
    records = []
    for beta, value in ((0.5, 0.9), (0.66, 0.9), (1.0, far), (1.5, 0.1)):  # 1.5 lies outside the plateau
        records += series(quality, "adaptive", 0.3, (value,) * 3, hyperparameters={"beta": beta})
    assert finding(claim("SST-2: beta"), records).verdict is verdict


def test_keep_ratio_must_meet_the_target(quality: Make) -> None:
    checked = claim("SST-2 at 30 %", "keep ratios by layer")
    off = {"keep_ratio": {"mean": 0.42, "by_layer": {"0": 0.45, "1": 0.39}}}
    assert finding(checked, [quality("adaptive", 0.3, 0.9)]).verdict is Verdict.REPRODUCED
    assert finding(checked, [quality("adaptive", 0.3, 0.9, **off)]).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(("bound", "verdict"), [(0.2, Verdict.REPRODUCED), (0.1, Verdict.NOT_REPRODUCED)])
def test_slack_is_weighted_by_the_multipliers(quality: Make, bound: float, verdict: Verdict) -> None:
    slack = {"slack_bound": bound, "price": {"0": 3.0, "1": 1.0}, "by_layer": {"0": 0.2, "1": 0.0}}  # mean 0.15
    record = quality("adaptive", 0.3, 0.9, training={"slack": slack})
    assert finding(claim("in training", "Proposition 1"), [record]).verdict is verdict


def test_records_are_read_with_file_and_line_without_trials(tmp_path: Path, quality: Make) -> None:
    for folder in ("quality", "speed", "trials"):
        append_record(tmp_path / "results" / folder / "a.jsonl", {"kind": "quality", "commit": "f" * 40 + "-dirty"})
    append_record(tmp_path / "results" / "quality" / "a.jsonl", {"kind": "quality", "date": "2026-01-02T03:04:05"})
    records_read = read_record_set(committed_files(tmp_path), tmp_path)
    assert [record["at"] for record in records_read.records] == [
        "results/quality/a.jsonl:1",
        "results/quality/a.jsonl:2",
        "results/speed/a.jsonl:1",
    ]
    assert cite(records_read.records[:2]) == "results/quality/a.jsonl:1,2 (2026-01-02/undated, ffffffff-dirty/unknown)"
