"""Theory lab: records, the page, and the verdicts of short runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reproduction.claims.claim import Verdict
from reproduction.claims.training import theory_claims
from reproduction.sources import RecordSet, committed_files, read_record_set
from reproduction.theory import lemma1, lemma2, lemma3, proposition1, proposition2, proposition3, theorem1
from reproduction.theory.evidence import Evidence, Measurement, TheoryVerdict, evidence_fields, read_evidence
from reproduction.theory.page import CLAIMS, latest_records, theory_page, theory_page_figures

from retention.errors import DataError
from retention.records import Theory, build_record

ROOT = Path(__file__).resolve().parents[2]
POINT = Measurement("gates", "bias", 0.25, 0.01, {"beta": 0.5})


@pytest.fixture(scope="module")
def committed() -> RecordSet:
    return read_record_set(committed_files(ROOT), ROOT)


def record_of(evidence: Evidence, claim: str = "lemma1") -> dict[str, Any]:
    result = Theory(claim=claim, source="appendix D", **evidence_fields(evidence))
    return build_record(result, config={}, seed=0, wall_s=1.0)


def test_committed_page_matches_the_committed_records(committed: RecordSet) -> None:
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    assert page == theory_page(committed.records), "run `python -m reproduction theory_page`"
    for name in theory_page_figures(committed.records):
        assert f"({name}.png)" in page and (ROOT / "docs" / f"{name}.png").exists()


def test_page_shows_each_claim_with_its_verdict(committed: RecordSet) -> None:
    page = theory_page(committed.records)
    latest = latest_records(committed.records)
    for claim in CLAIMS:
        assert f"| {claim.title} | {claim.source} | {latest[claim.name]['verdict']} |" in page


def test_page_without_a_record_names_the_claim(committed: RecordSet) -> None:
    records = [record for record in committed.records if record.get("claim") != "lemma3"]
    with pytest.raises(DataError, match="lemma3"):
        theory_page(records)


def test_evidence_survives_the_record() -> None:
    evidence = Evidence(TheoryVerdict.FAILS, POINT, (POINT, Measurement("gates", "cosine", 1.0)))
    record = record_of(evidence)
    assert (record["kind"], record["verdict"], record["value"], record["mc_error"]) == ("theory", "fails", 0.25, 0.01)
    assert read_evidence(record) == evidence


@pytest.mark.parametrize("change", [{"verdict": "maybe"}, {"measurements": []}, {"value": 9.0}])
def test_incomplete_record_is_refused(change: dict[str, Any]) -> None:
    record = record_of(Evidence(TheoryVerdict.FAILS, POINT, (POINT,)))
    with pytest.raises(DataError, match="lemma1"):
        read_evidence({**record, **change})


def test_curve_is_sorted_and_ignores_other_coordinates() -> None:
    other = Measurement("gates", "bias", 9.0, at={"stretch": 0.1})
    lower = Measurement("gates", "bias", 0.125, at={"beta": 0.1})
    curve = Evidence(TheoryVerdict.HOLDS, POINT, (POINT, other, lower)).curve("gates", "bias", "beta")
    assert (curve.x, curve.y, curve.errors) == ((0.1, 0.5), (0.125, 0.25), (0.0, 0.01))


def test_find_needs_exactly_one_measurement() -> None:
    evidence = Evidence(TheoryVerdict.HOLDS, POINT, (POINT, POINT))
    for at in ({"beta": 0.5}, {}):
        with pytest.raises(DataError, match="expected 1"):
            evidence.find("gates", "bias", **at)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("holds", Verdict.REPRODUCED),
        ("fails", Verdict.NOT_REPRODUCED),
        ("holds in another form", Verdict.NOT_REPRODUCED),
    ],
)
def test_claims_page_takes_the_last_verdict(verdict: str, expected: Verdict) -> None:
    first = record_of(Evidence(TheoryVerdict.HOLDS, POINT, (POINT,)), "lemma3")
    last = record_of(Evidence(TheoryVerdict(verdict), POINT, (POINT,)), "lemma3")
    claim = next(claim for claim in theory_claims() if claim.text.startswith("Lemma 3"))
    (finding,) = claim.check(RecordSet((first, last)))
    assert finding.verdict is expected and verdict in finding.measured and finding.records == (last,)


def test_lemma1_fails_as_stated_and_holds_for_the_relaxed_objective() -> None:
    assert lemma1.run(draws=50_000).verdict is TheoryVerdict.ANOTHER_FORM


def test_lemma1_would_hold_without_bias() -> None:
    unbiased = [Measurement("linear", "relative bias", 0.02, 0.01, {"beta": 0.66})]
    assert lemma1.decide(unbiased).verdict is TheoryVerdict.HOLDS
    biased = [Measurement("linear", "relative bias", 0.04, 0.01, {"beta": 0.66})]
    assert (
        lemma1.decide([*biased, Measurement("linear", "relaxed relative bias", 0.04, 0.01)]).verdict
        is TheoryVerdict.FAILS
    )


def test_lemma2_holds_and_data_noise_remains() -> None:
    evidence = lemma2.run(draws=2**16, draws_per_text=2**9)
    assert evidence.verdict is TheoryVerdict.HOLDS
    remaining = evidence.find(lemma2.MINIBATCH, "variance", B=64.0).value
    assert remaining > 0.9 * evidence.find(lemma2.MINIBATCH, "variance between texts").value
    assert lemma2.decide([Measurement("a", "slope", -0.5)]).verdict is TheoryVerdict.FAILS


def test_proposition1_holds_at_minimizers_only() -> None:
    evidence = proposition1.run(number=100, trained=10, steps=50)
    assert evidence.verdict is TheoryVerdict.HOLDS and evidence.decisive.value == 0
    assert evidence.find("pairwise", "minimizers over budget").value > 0, "the bound would say nothing"
    assert evidence.find("pairwise", "violations at other corners").value > 0


def test_lemma3_fails_for_the_gap_and_holds_for_the_loss() -> None:
    evidence = lemma3.run(number=200)
    assert evidence.verdict is TheoryVerdict.ANOTHER_FORM
    assert evidence.decisive.value > 0 and evidence.find("all families", lemma3.LOSS_GAP).value == 0


@pytest.mark.slow
def test_proposition2_residual_falls() -> None:
    evidence = proposition2.run(steps=2_000, chains=8)
    residuals = evidence.curve("exact, paper's order", "KKT residual", "k")
    assert residuals.y[-1] < 0.5 * residuals.y[0]


@pytest.mark.parametrize(
    ("unbiased", "pathwise", "verdict"),
    [
        (0.4, 0.4, TheoryVerdict.HOLDS),
        (0.4, 0.9, TheoryVerdict.ANOTHER_FORM),
        (0.9, 0.4, TheoryVerdict.FAILS),
    ],
)
def test_proposition2_needs_a_falling_residual(unbiased: float, pathwise: float, verdict: TheoryVerdict) -> None:
    late = {proposition2.UNBIASED: unbiased, proposition2.PATHWISE: pathwise}
    made = [
        Measurement(name, "KKT residual", value, at={"k": k})
        for name, last in late.items()
        for k, value in ((10.0, 1.0), (100.0, last))
    ]
    assert proposition2.decide(made, 100).verdict is verdict


def test_theorem1_holds_for_sums_of_identical_tokens_only() -> None:
    evidence = theorem1.run(draws=500, network_draws=5)
    assert evidence.verdict is TheoryVerdict.ANOTHER_FORM
    tenth = {"M/T": 0.1}
    ratio = {
        name: evidence.find(name, "complexity ratio", **tenth).value for name in evidence.instances("complexity ratio")
    }
    assert ratio["identical tokens, sum pooling"] == pytest.approx(0.1, rel=0.05)
    assert ratio["identical tokens, mean pooling"] == pytest.approx(1.0, rel=0.05)
    assert ratio["independent tokens, sum pooling"] == pytest.approx(0.1**0.5, rel=0.05)
    assert ratio["independent tokens, mean pooling"] == pytest.approx(0.1**-0.5, rel=0.05)


def test_proposition3_counts_are_exact() -> None:
    scores, entering = proposition3.scores_by_layer(64, 0.25)
    assert entering == [64, 16, 16] and scores == [64**2, 16**2, 16**2]
    assert proposition3.scores_by_layer(64, 1.0)[0] == [64**2] * 3
    assert proposition3.attention_flops(T=64, M=16, d=8) == 2 * (2 * 64 * 16 * 8)
