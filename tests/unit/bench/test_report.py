"""Check the FLOPs account, the choice of the baseline, and the contents of records and table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from retention.bench.activations import Activations
from retention.bench.case import CaseResult, FlopsAccount, VariantResult, fastest_dense, flops_account, scoring_costs
from retention.bench.memory import PeakMemory
from retention.bench.plan import BenchPlan
from retention.bench.report import build_records, format_table
from retention.bench.timing import Quantiles, speedup_quantiles
from retention.bench.variants import VariantSpec
from retention.core.flops import EncoderShape
from retention.engine import ForwardReport
from retention.records import Speed

SHAPE = EncoderShape(num_layers=2, hidden_size=8, intermediate_size=32)


def layer(tokens: int) -> float:
    """FLOPs of one layer of SHAPE: four projections, two feed-forward matrices, two attention products."""
    return 2.0 * tokens * (4 * 8 * 8 + 2 * 8 * 32) + 2 * 2.0 * tokens * tokens * 8


def test_ideal_speedup_is_the_flops_ratio_on_real_tokens() -> None:
    reports = [
        ForwardReport(lengths=torch.tensor([10, 6]), kept={0: torch.tensor([5, 3])}),
        ForwardReport(lengths=torch.tensor([4]), kept={0: torch.tensor([3])}),
    ]
    dense = sum(2 * layer(tokens) for tokens in (10, 6, 4))
    kept = sum(layer(before) + layer(after) for before, after in ((10, 5), (6, 3), (4, 3)))
    scorer = 2.0 * 7 * (10 + 6 + 4)  # 7 multiply-accumulates per token that reaches the gate
    account = flops_account(SHAPE, {0: 7}, reports, before_feed_forward=False)
    assert account.ideal_speedup == pytest.approx(dense / (kept + scorer), rel=1e-12)
    assert account.keep_ratio["by_layer"] == {0: pytest.approx((0.5 + 0.5 + 0.75) / 3)}
    assert account.keep_ratio["mean"] == account.keep_ratio["by_layer"][0]
    # per batch, the scorer with the layer it follows
    first, second = (sum(map(layer, tokens)) for tokens in ((10, 6, 4), (5, 3, 3)))
    assert account.gflops_by_layer["policy"] == pytest.approx([(first + scorer) / 2e9, second / 2e9])
    assert account.gflops_by_layer["dense"] == pytest.approx([first / 2e9] * 2)


SPECS = [
    VariantSpec("dense-sdpa", "sdpa"),
    VariantSpec("dense-eager", "eager"),
    VariantSpec("truncate 0.5", "sdpa", candidate=0),
    VariantSpec("adaptive 0.5", "sdpa", candidate=1),
    VariantSpec("adaptive scoring", "sdpa", candidate=1, score_only=True),
]
SECONDS = {
    "dense-sdpa": [4.0, 6.0, 4.0],
    "dense-eager": [5.0, 5.0, 5.0],
    "truncate 0.5": [2.0, 2.0, 2.0],
    "adaptive 0.5": [2.5, 2.5, 2.5],
    "adaptive scoring": [4.2, 6.3, 4.0],
}


def test_baseline_is_the_dense_variant_with_the_lowest_median() -> None:
    assert fastest_dense(SPECS, SECONDS) == "dense-sdpa"
    assert fastest_dense(SPECS, {**SECONDS, "dense-eager": [1.0, 9.0, 1.0]}) == "dense-eager"


@pytest.fixture
def made(plan: Callable[..., BenchPlan]) -> BenchPlan:
    return plan(policies=("truncate", "adaptive"), rounds=3)


@pytest.fixture
def case(made: BenchPlan) -> CaseResult:
    """Return made-up results."""
    account = FlopsAccount(2.5, {"mean": 0.5, "by_layer": {0: 0.5}}, {"dense": [1.5, 1.25], "policy": [1.5, 0.125]})
    results = [
        VariantResult(
            spec,
            SECONDS[spec.name],
            speedup_quantiles(SECONDS["dense-sdpa"], SECONDS[spec.name]),
            account if spec.candidate is not None and not spec.score_only else None,
            None if spec.score_only else PeakMemory(100.0 + index, 90.0 + index, "resident_peak"),
        )
        for index, spec in enumerate(SPECS)
    ]
    data = {"source": "made-up data", "rows": 6, "mean_length": 15.0, "padding": 0.0625}
    return CaseResult(16, 3, "dense-sdpa", results, scoring_costs(made, SPECS, SECONDS), data, 2, 12.0)


def test_scoring_cost_is_relative_to_dense_round_by_round(case: CaseResult) -> None:
    assert list(case.scoring_costs) == ["adaptive"]
    assert case.scoring_costs["adaptive"].median == pytest.approx(0.05)  # 0.05, 0.05, 0.00
    assert case.scoring_costs["adaptive"].low == pytest.approx(0.01)


def test_one_record_per_policy_and_keep_ratio(made: BenchPlan, case: CaseResult) -> None:
    built = build_records(made, case, ["retention", "bench", "--rho", "0.5"])
    assert [(record["policy"], record["rho"]) for record in built] == [("truncate", 0.5), ("adaptive", 0.5)]
    assert {field.name for field in fields(Speed)} <= set(built[0])
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
        "command": "retention bench --rho 0.5",
        "wall_s": 12.0,
        "seed": 0,
        "keep_ratio": {"mean": 0.5, "by_layer": {"0": 0.5}},
    }
    assert {key: built[0][key] for key in expected} == expected
    assert built[0]["data"]["source"] == "made-up data"
    assert built[0]["config"]["retention"]["_target_"] == "retention.policies.Truncate"
    assert built[0]["config"]["bench"]["rounds"] == 3


def test_record_has_the_times(made: BenchPlan, case: CaseResult) -> None:
    truncate, adaptive = (record["timing"] for record in build_records(made, case, ["bench.py"]))
    assert truncate["ms_per_batch"] == 1000.0  # 2 s for two batches
    assert truncate["dense_ms_per_batch"] == {"dense-sdpa": 2000.0, "dense-eager": 2500.0}
    assert (truncate["rounds"], truncate["warmup"], truncate["threads"]) == (3, 1, 2)
    assert truncate["scoring_share"] is None
    assert adaptive["scoring_share"]["median"] == pytest.approx(0.05)


def test_unmeasured_memory_is_null(made: BenchPlan, case: CaseResult) -> None:
    without_peaks = replace(case, results=[replace(result, peak=None) for result in case.results])
    for record in build_records(made, without_peaks, ["bench.py"]):
        keys = ("peak_mib", "baseline_peak_mib", "memory_kind", "rest_mib", "baseline_rest_mib")
        assert [record[key] for key in keys] == [None] * 5


def test_table_is_aligned_and_names_the_baseline(made: BenchPlan, case: CaseResult) -> None:
    text = format_table(made, case)
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("variant"))
    body = lines[start + 1 : start + 1 + len(SPECS)]
    assert [line.split("  ")[0] for line in body] == [spec.name for spec in SPECS]
    end = lines[start].index("ms/batch") + len("ms/batch")
    assert [line[:end].split()[-1] for line in body] == ["2000.0", "2500.0", "1000.0", "1250.0", "2100.0"]
    assert "baseline" in body[0] and "baseline" not in body[1]
    assert "2.00" in body[2] and "2.00-2.80" in body[2] and "80 %" in body[2] and "102" in body[2]
    assert "2 threads, 3 rounds of 2 batches" in lines[0]
    assert "6 sequences: made-up data; mean 15 tokens, 6.2 % padding" in text
    assert "scoring alone (adaptive, nothing removed): +5.0 % of dense (+1.0 to +5.0)" in text


def test_flops_by_layer_in_table_and_record(made: BenchPlan, case: CaseResult) -> None:
    lines = format_table(made, case).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("GFLOPs per batch in layer"))
    assert [line.split()[-2:] for line in lines[start : start + 4]] == [
        *(["0", "1"], ["1.5", "1.25"], ["1.5", "0.125"], ["1.5", "0.125"])
    ]
    assert build_records(made, case, ["bench.py"])[0]["gflops_by_layer"] == {
        "dense": [1.5, 1.25],
        "policy": [1.5, 0.125],
    }


def test_activations_of_training_steps(plan: Callable[..., BenchPlan], case: CaseResult) -> None:
    made = plan(phase="train", policies=("truncate", "adaptive"), rounds=3)
    kept = {"dense-sdpa": Activations(8.0, (4.0, 7.5)), "truncate 0.5": Activations(5.0, (4.0, 4.75))}
    trained = replace(
        case, results=[replace(result, activations=kept.get(result.spec.name)) for result in case.results]
    )
    truncate, adaptive = (record["activations"] for record in build_records(made, trained, ["bench.py"]))
    assert truncate == {
        "saved_mib": 5.0,
        "baseline_saved_mib": 8.0,
        "share": 0.625,
        "saved_by_layer": [4.0, 4.75],
        "dense_saved_by_layer": [4.0, 7.5],
    }
    assert adaptive is None  # a variant without a count
    shown = next(line for line in format_table(made, trained).splitlines() if line.startswith("truncate"))
    assert shown.split()[-3:] == ["5.0", "62", "%"]


def test_unavailable_variants_are_listed_with_the_reason(made: BenchPlan, case: CaseResult) -> None:
    lacking = replace(case, unavailable={"dense-packed": "ValueError: no kernel"})
    assert "dense-packed is left out: ValueError: no kernel" in format_table(made, lacking)
    assert build_records(made, lacking, ["bench.py"])[0]["unavailable"] == {"dense-packed": "ValueError: no kernel"}


def test_dense_variants_have_no_record(made: BenchPlan, case: CaseResult) -> None:
    dense_only = replace(case, results=case.results[:2])
    assert build_records(made, dense_only, ["bench.py"]) == []


def test_quantiles_of_equal_rounds() -> None:
    assert speedup_quantiles([3.0] * 4, [1.5] * 4) == Quantiles(2.0, 2.0, 2.0)
