"""The FLOPs account, the choice of the baseline, and what the records and the table say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from retention.bench.activations import Activations
from retention.bench.case import Case, FlopsAccount, Row, fastest_dense, ledger, scoring_cost
from retention.bench.memory import Peak
from retention.bench.plan import Plan
from retention.bench.report import records, table
from retention.bench.timing import Spread, ratios
from retention.bench.variants import Spec
from retention.core.flops import EncoderShape
from retention.engine import ForwardReport
from retention.records import Speed

SHAPE = EncoderShape(num_layers=2, hidden_size=8, intermediate_size=32)


def layer(tokens: int) -> float:
    """FLOPs of one layer of SHAPE: four projections, two feed-forward matrices, two attention products."""
    return 2.0 * tokens * (4 * 8 * 8 + 2 * 8 * 32) + 2 * 2.0 * tokens * tokens * 8


def test_the_ideal_speed_up_is_the_ratio_of_flops_on_real_tokens() -> None:
    reports = [
        ForwardReport(lengths=torch.tensor([10, 6]), kept={0: torch.tensor([5, 3])}),
        ForwardReport(lengths=torch.tensor([4]), kept={0: torch.tensor([3])}),
    ]
    dense = sum(2 * layer(tokens) for tokens in (10, 6, 4))
    kept = sum(layer(before) + layer(after) for before, after in ((10, 5), (6, 3), (4, 3)))
    scorer = 2.0 * 7 * (10 + 6 + 4)  # 7 multiply-accumulates per token that reaches the gate
    account = ledger(SHAPE, {0: 7}, reports, early=False)
    assert account.ideal_speedup == pytest.approx(dense / (kept + scorer), rel=1e-12)
    assert account.keep_ratio["by_layer"] == {0: pytest.approx((0.5 + 0.5 + 0.75) / 3)}
    assert account.keep_ratio["mean"] == account.keep_ratio["by_layer"][0]
    # per batch, the scorer with the layer it follows
    first, second = (sum(map(layer, tokens)) for tokens in ((10, 6, 4), (5, 3, 3)))
    assert account.gflops_by_layer["policy"] == pytest.approx([(first + scorer) / 2e9, second / 2e9])
    assert account.gflops_by_layer["dense"] == pytest.approx([first / 2e9] * 2)


SPECS = [
    Spec("dense-sdpa", "sdpa"),
    Spec("dense-eager", "eager"),
    Spec("truncate 0.5", "sdpa", candidate=0),
    Spec("adaptive 0.5", "sdpa", candidate=1),
    Spec("adaptive scoring", "sdpa", candidate=1, keeps_all=True),
]
SECONDS = {
    "dense-sdpa": [4.0, 6.0, 4.0],
    "dense-eager": [5.0, 5.0, 5.0],
    "truncate 0.5": [2.0, 2.0, 2.0],
    "adaptive 0.5": [2.5, 2.5, 2.5],
    "adaptive scoring": [4.2, 6.3, 4.0],
}


def test_the_baseline_is_the_dense_model_with_the_least_median() -> None:
    assert fastest_dense(SPECS, SECONDS) == "dense-sdpa"
    assert fastest_dense(SPECS, {**SECONDS, "dense-eager": [1.0, 9.0, 1.0]}) == "dense-eager"


@pytest.fixture
def made(plan: Callable[..., Plan]) -> Plan:
    return plan(policies=("truncate", "adaptive"), rounds=3)


@pytest.fixture
def case(made: Plan) -> Case:
    """Hand-made results."""
    account = FlopsAccount(2.5, {"mean": 0.5, "by_layer": {0: 0.5}}, {"dense": [1.5, 1.25], "policy": [1.5, 0.125]})
    rows = [
        Row(
            spec,
            SECONDS[spec.name],
            ratios(SECONDS["dense-sdpa"], SECONDS[spec.name]),
            account if spec.candidate is not None and not spec.keeps_all else None,
            None if spec.keeps_all else Peak(100.0 + place, 90.0 + place, "resident_peak"),
        )
        for place, spec in enumerate(SPECS)
    ]
    note = {"source": "made-up texts", "rows": 6, "mean_length": 15.0, "padding": 0.0625}
    return Case(16, 3, "dense-sdpa", rows, scoring_cost(made, SPECS, SECONDS), note, 2, 12.0)


def test_scoring_is_a_share_of_the_dense_model_round_by_round(case: Case) -> None:
    assert list(case.scoring) == ["adaptive"]
    assert case.scoring["adaptive"].median == pytest.approx(0.05)  # 0.05, 0.05, 0.00
    assert case.scoring["adaptive"].low == pytest.approx(0.01)


def test_every_policy_and_share_gets_a_record(made: Plan, case: Case) -> None:
    found = records(made, case, ["scripts/bench.py", "--rho", "0.5"])
    assert [(record["policy"], record["rho"]) for record in found] == [("truncate", 0.5), ("adaptive", 0.5)]
    assert {field.name for field in fields(Speed)} <= set(found[0])
    expected: dict[str, Any] = {
        "kind": "speed",
        "phase": "inference",
        "backbone": "two-layers",
        "device": "cpu",
        "dtype": "float32",
        "batch": 3,
        "length": 16,
        "baseline": "dense-sdpa",
        "speedup": {"median": 2.0, "low": 2.0, "high": pytest.approx(2.8)},
        "ideal_speedup": 2.5,
        "share_of_ideal": 0.8,
        "peak_mib": 102.0,
        "baseline_peak_mib": 100.0,
        "memory_kind": "resident_peak",
        "rest_mib": 92.0,
        "baseline_rest_mib": 90.0,
        "command": "python scripts/bench.py --rho 0.5",
        "wall_s": 12.0,
        "seed": 0,
        "keep_ratio": {"mean": 0.5, "by_layer": {0: 0.5}},
    }
    assert {key: found[0][key] for key in expected} == expected
    assert found[0]["data"]["source"] == "made-up texts"
    assert found[0]["config"]["retention"]["_target_"] == "retention.policies.Truncate"
    assert found[0]["config"]["bench"]["rounds"] == 3


def test_the_record_has_the_times_it_rests_on(made: Plan, case: Case) -> None:
    truncate, adaptive = (record["timing"] for record in records(made, case, ["bench.py"]))
    assert truncate["ms_per_batch"] == 1000.0  # 2 s for two batches
    assert truncate["dense_ms_per_batch"] == {"dense-sdpa": 2000.0, "dense-eager": 2500.0}
    assert (truncate["rounds"], truncate["warmup"], truncate["threads"]) == (3, 1, 2)
    assert truncate["scoring_share"] is None
    assert adaptive["scoring_share"]["median"] == pytest.approx(0.05)


def test_memory_that_was_not_measured_is_null(made: Plan, case: Case) -> None:
    strip_pooler = replace(case, rows=[replace(row, peak=None) for row in case.rows])
    for record in records(made, strip_pooler, ["bench.py"]):
        keys = ("peak_mib", "baseline_peak_mib", "memory_kind", "rest_mib", "baseline_rest_mib")
        assert [record[key] for key in keys] == [None] * 5


def test_the_table_is_aligned_and_names_the_baseline(made: Plan, case: Case) -> None:
    text = table(made, case)
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("variant"))
    body = lines[start + 1 : start + 1 + len(SPECS)]
    assert [line.split("  ")[0] for line in body] == [spec.name for spec in SPECS]
    end = lines[start].index("ms/batch") + len("ms/batch")
    assert [line[:end].split()[-1] for line in body] == ["2000.0", "2500.0", "1000.0", "1250.0", "2100.0"]
    assert "baseline" in body[0] and "baseline" not in body[1]
    assert "2.00" in body[2] and "2.00-2.80" in body[2] and "80 %" in body[2] and "102" in body[2]
    assert "2 threads, 3 rounds of 2 batches" in lines[0]
    assert "6 texts: made-up texts; mean 15 tokens, 6.2 % padding" in text
    assert "scoring alone (adaptive, nothing removed): +5.0 % of dense (+1.0 to +5.0)" in text


def test_the_table_and_the_record_say_what_each_layer_spends(made: Plan, case: Case) -> None:
    lines = table(made, case).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("GFLOPs per batch in layer"))
    assert [line.split()[-2:] for line in lines[start : start + 4]] == [
        *(["0", "1"], ["1.5", "1.25"], ["1.5", "0.125"], ["1.5", "0.125"])
    ]
    assert records(made, case, ["bench.py"])[0]["gflops_by_layer"] == {"dense": [1.5, 1.25], "policy": [1.5, 0.125]}


def test_memory_of_a_training_step_stands_beside_the_baseline_s(plan: Callable[..., Plan], case: Case) -> None:
    made = plan(phase="train", policies=("truncate", "adaptive"), rounds=3)
    kept = {"dense-sdpa": Activations(8.0, (4.0, 7.5)), "truncate 0.5": Activations(5.0, (4.0, 4.75))}
    trained = replace(case, rows=[replace(row, activations=kept.get(row.spec.name)) for row in case.rows])
    truncate, adaptive = (record["activations"] for record in records(made, trained, ["bench.py"]))
    assert truncate == {
        "saved_mib": 5.0,
        "baseline_saved_mib": 8.0,
        "share": 0.625,
        "saved_by_layer": [4.0, 4.75],
        "dense_saved_by_layer": [4.0, 7.5],
    }
    assert adaptive is None  # a variant without a count
    shown = next(line for line in table(made, trained).splitlines() if line.startswith("truncate"))
    assert shown.split()[-3:] == ["5.0", "62", "%"]


def test_what_was_left_out_is_named_with_the_reason(made: Plan, case: Case) -> None:
    lacking = replace(case, unavailable={"dense-packed": "ValueError: no kernel"})
    assert "dense-packed is left out: ValueError: no kernel" in table(made, lacking)
    assert records(made, lacking, ["bench.py"])[0]["unavailable"] == {"dense-packed": "ValueError: no kernel"}


def test_a_dense_row_has_no_record(made: Plan, case: Case) -> None:
    dense_only = replace(case, rows=case.rows[:2])
    assert records(made, dense_only, ["bench.py"]) == []


def test_spreads_of_equal_rounds_have_no_width() -> None:
    assert ratios([3.0] * 4, [1.5] * 4) == Spread(2.0, 2.0, 2.0)
