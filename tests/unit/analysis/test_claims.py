"""Verdicts follow from records by rule, and the committed page is up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retention.analysis.claims import ledger
from retention.analysis.claims.claim import Finding, Verdict
from retention.analysis.claims.ledger import all_claims
from retention.analysis.sources import Evidence, committed_files, read_evidence

ROOT = Path(__file__).parents[3]
Make = Callable[..., dict[str, Any]]


def findings(text: str, records: list[dict[str, Any]]) -> list[Finding]:
    """What records say of the one claim whose text begins so."""
    [claim] = [claim for claim in all_claims() if claim.text.startswith(text)]
    return list(claim.check(Evidence(tuple(records))))


def runs(make: Make, policy: str, rho: float, values: tuple[float, ...], **changes: Any) -> list[dict[str, Any]]:
    return [make(policy, rho, value, seed, **changes) for seed, value in enumerate(values)]


SHARE = "SST-2 accuracy at 30 %: at least 95 %"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.89, 0.89, 0.89), Verdict.REPRODUCED),
        ((0.80, 0.80, 0.81), Verdict.NOT_REPRODUCED),
        ((0.80, 0.89, 0.85), Verdict.UNDECIDED),
    ],
)
def test_a_share_of_dense(values: tuple[float, ...], verdict: Verdict, quality_record: Make) -> None:
    records = runs(quality_record, "dense", 1.0, (0.90, 0.90, 0.90)) + runs(quality_record, "adaptive", 0.3, values)
    [found] = findings(SHARE, records)
    assert found.verdict is verdict
    assert len(found.records) == 6


def test_one_seed_decides_nothing(quality_record: Make) -> None:
    records = runs(quality_record, "dense", 1.0, (0.9,)) + runs(quality_record, "adaptive", 0.3, (0.9,))
    [found] = findings(SHARE, records)
    assert found.verdict is Verdict.UNDECIDED


def test_rows_that_stand_in_decide_nothing(quality_record: Make) -> None:
    data = {"source": "reviews, a stand-in for SST-2", "train": 9, "test": 9}
    values = (0.9, 0.9, 0.9)
    records = [
        record
        for policy, rho in (("dense", 1.0), ("adaptive", 0.3))
        for record in runs(quality_record, policy, rho, values, data=data)
    ]
    [found] = findings(SHARE, records)
    assert found.verdict is Verdict.NOT_RUN


def test_ahead_of_random_by_pairs(quality_record: Make) -> None:
    records = runs(quality_record, "adaptive", 0.3, (0.85, 0.87, 0.86)) + runs(
        quality_record, "random", 0.3, (0.80, 0.82, 0.81)
    )
    [found] = findings("SST-2 accuracy at 30 %: ahead of random", records)
    assert found.verdict is Verdict.REPRODUCED and found.measured.startswith("+5.0 points")


def test_speed_memory_and_overhead(speed_record: Make) -> None:
    record = speed_record("adaptive", 0.3, 2.2)
    for text, verdict in (
        ("up to 1.8x", Verdict.REPRODUCED),
        ("the scorer costs less than 2 %", Verdict.REPRODUCED),
        ("35-45 % less peak memory at 30 %", Verdict.REPRODUCED),
    ):
        [found] = findings(text, [record])
        assert found.verdict is verdict, text
    slow = speed_record("adaptive", 0.3, 1.5, peak_mib=900.0)
    assert [each.verdict for each in findings("up to 1.8x", [slow])] == [Verdict.NOT_REPRODUCED]
    assert [each.verdict for each in findings("35-45 % less peak memory at 30 %", [slow])] == [Verdict.NOT_REPRODUCED]


def test_without_records_every_claim_is_open_or_untestable() -> None:
    page = ledger(Evidence(()))
    assert "**reproduced** |" not in page and "**not reproduced** |" not in page
    assert page.count("not yet run |") > 50
    assert page == ledger(Evidence(()))


def test_the_committed_page_is_what_the_committed_records_say() -> None:
    page = ledger(read_evidence(committed_files(ROOT), ROOT))
    assert (ROOT / "docs" / "claims.md").read_text() == page, "out of date; run: make claims"
