"""Test the summary of decoder records."""

from __future__ import annotations

from typing import Any

import pytest
from reproduction.decoder_results import cost_table, loss_table, quarter_table, recall_table

from retention.errors import DataError


def record(policy: str, seed: int, accuracy: float, **changes: Any) -> Any:
    fixed = {"kind": "decoding", "task": "symbol_recall", "size": 16, "text_lengths": [64, 64], "date": "2026-01-01"}
    return {**fixed, "policy": policy, "seed": seed, "accuracy": accuracy, **changes}


RECORDS = [
    record("random", 0, 0.2),
    record("random", 1, 0.3),
    record("learned", 0, 0.9),
    record("full", 0, 1.0),
]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_full_cache_stands_first_and_policies_go_from_best_to_worst() -> None:
    assert cells(recall_table(RECORDS)) == [
        ["full", "1", "100.0", "100 %"],
        ["learned", "1", "90.0", "90 %"],
        ["random", "2", "25.0 ± 7.1", "25 %"],
    ]


def test_latest_record_of_a_seed_counts() -> None:
    later = record("learned", 0, 0.5, date="2026-02-01")
    assert cells(recall_table([later, *RECORDS]))[1][2] == "50.0"


def test_other_records_are_left_out_and_mixed_sizes_refused() -> None:
    assert recall_table([*RECORDS, record("x", 0, 0.1, task="needle")]) == recall_table(RECORDS)
    with pytest.raises(DataError, match="several cache sizes"):
        recall_table([*RECORDS, record("x", 0, 0.1, size=8)])
    with pytest.raises(DataError, match="recall_experiment"):
        recall_table([])


def loss(policy: str, value: float, size: int = 64, **changes: Any) -> Any:
    fixed = {"kind": "decoding", "task": "text", "text_lengths": [1024, 1024], "date": "2026-01-01"}
    return {**fixed, "policy": policy, "loss": value, "size": size, **changes}


LOSSES = [
    loss("full", 3.0),
    loss("streaming_llm", 3.4),
    loss("random", 3.6),
    loss("h2o", 3.3),
    loss("learned:ranked-seed0", 3.1),
    loss("learned:ranked-seed1", 3.3),
]


def test_losses_of_seeds_are_pooled_and_the_gap_is_to_the_best_policy_without_attention_maps() -> None:
    assert cells(loss_table(LOSSES, 1024)) == [
        ["full", "no", "1", "3.000", "-"],
        ["learned, ranked", "no", "2", "3.200 ± 0.141", "50 %"],
        ["h2o", "yes", "1", "3.300", "25 %"],
        ["streaming_llm", "no", "1", "3.400", "0 %"],
        ["random", "no", "1", "3.600", "-50 %"],
    ]


def test_losses_of_other_lengths_are_left_out_and_references_required() -> None:
    other = loss("random", 9.0, text_lengths=[512, 1024], date="2026-02-01")
    assert loss_table([*LOSSES, other], 1024) == loss_table(LOSSES, 1024)
    with pytest.raises(DataError, match="no records of texts of 512 tokens"):
        loss_table(LOSSES, 512)
    with pytest.raises(DataError, match="M = 64 needs records of full"):
        loss_table([each for each in LOSSES if each["policy"] != "full"], 1024)


def cost(policy: str, length: int, ms: float, **changes: Any) -> Any:
    costs = {
        "length": length,
        "cache_bytes": 2**20 * length,
        "prefill_s": 1.0,
        "ms_per_token": {"median": ms},
        **changes,
    }
    return {"kind": "decoding", "task": "cost", "policy": policy, "cost": costs, "date": f"2026-01-{length:02d}"}


def test_costs_stand_by_form_and_length() -> None:
    records = [cost("full", 8, 2.0), cost("full", 16, 4.0), cost("learned:x-seed0", 16, 1.5, form="fixed")]
    assert cells(cost_table([*records, *LOSSES])) == [
        ["full", "dynamic", "16.0", "1.0", "2.0", "4.0"],
        ["learned, x", "fixed", "16.0", "1.0", "-", "1.5"],
    ]
    with pytest.raises(DataError, match=r"retention\.cache\.bench"):
        cost_table(LOSSES)


def test_losses_by_quarter_are_pooled_over_seeds() -> None:
    records = [
        loss("random", 3.5, loss_by_quarter=[3.0, 3.5, 4.0, 3.5]),
        loss("learned:x-seed0", 3.0, loss_by_quarter=[2.0, 3.0, 3.0, 4.0]),
        loss("learned:x-seed1", 3.0, loss_by_quarter=[3.0, 3.0, 3.0, 4.0]),
        *LOSSES,
    ]
    assert cells(quarter_table(records)) == [
        ["learned, x", "2", "2.500 ± 0.707", "3.000 ± 0.000", "3.000 ± 0.000", "4.000 ± 0.000"],
        ["random", "1", "3.000", "3.500", "4.000", "3.500"],
    ]
    with pytest.raises(DataError, match="of one cache size"):
        quarter_table([*records, loss("h2o", 3.0, 128, loss_by_quarter=[3.0] * 4)])
