"""Table of all metrics that were measured."""

from __future__ import annotations

from typing import Any

from retention.report.details import detail_table


def record(policy: str, **metrics: float) -> dict[str, Any]:
    return {"kind": "quality", "policy": policy, "rho": 0.5, "metrics": metrics}


def test_scores_show_their_counts_and_missing_values() -> None:
    first = record("dense", answer_f1=0.25, f1_boolean=0.5, count_boolean=9.0, count_evidence=48.0)
    table = detail_table([first, record("random", answer_f1=0.2), {"kind": "speed"}])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == ["metric", "dense 0.5", "random 0.5"]
    assert lines[2:] == [["answer_f1", "25.0", "20.0"], ["f1_boolean (9)", "50.0", "-"], ["count_evidence", "48", "-"]]


def test_headline_alone_gives_no_table() -> None:
    assert detail_table([record("dense", accuracy=0.9)]) == ""


def test_losses_are_not_scaled() -> None:
    table = detail_table([record("dense", rouge1=0.25, token_loss=3.1234)])
    assert "25.0" in table and "3.123" in table and "312" not in table
