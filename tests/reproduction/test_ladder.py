"""Table of the steps from the paper's method to the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reproduction.ladder import INGREDIENTS, ladder_table, main
from reproduction.series import read_list

from retention.errors import DataError
from retention.report import paired_comparison

STEPS = """
- {name: dense, policy: "dense:1.0", overrides: []}
- {name: the paper's method, policy: "paper:0.3", overrides: [distill.weight=0.0]}
"""
SCORES = {("dense", 0): 0.90, ("dense", 1): 0.92, ("paper", 0): 0.80, ("paper", 1): 0.84}
FOLDERS = {"dense": "dense-1.0-seed{seed}", "paper": "paper-0.3-seed{seed}-distill.weight_0.0"}

DISTILLED = ("distillation_saliency_and_states", "distillation_saliency")


def compared(run: str, other: str, mean: float) -> dict[str, Any]:
    difference = {"mean": mean, "low": 0.0, "high": 0.0, "bootstrap_low": mean - 0.02, "bootstrap_high": mean + 0.03}
    return {
        "kind": "paired",
        "config": {"run": run, "other": other},
        "difference": difference,
        "rows": 100,
        "first": {"seed": [0, 1]},
    }


@pytest.fixture
def ladder(tmp_path: Path, quality: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """``ladder(*more, without=...)``: the table of two steps with two seeds, and of further records."""

    def make(*more: dict[str, Any], without: str | None = None) -> str:
        records = []
        for (policy, seed), score in SCORES.items():
            folder = FOLDERS[policy].format(seed=seed)
            command = f"python run.py retention={policy} hydra.run.dir=outputs/quality/sst2_small/{folder} seed={seed}"
            if policy != without:
                record = quality(policy, 1.0 if policy == "dense" else 0.3, score, seed, command=command)
                slack = {} if policy == "dense" else {"slack": 0.02 + 0.02 * seed}
                records.append({**record, "training": {"slack": slack}})
        file = tmp_path / "results" / "ladder" / "sst2.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps(record)}\n" for record in (*records, *more)))
        steps = tmp_path / "ladder.yaml"
        steps.write_text(STEPS)
        return ladder_table(tmp_path, "sst2", steps)

    return make


def test_each_step_has_its_score_and_its_difference_from_the_one_above(ladder: Callable[..., str]) -> None:
    earlier = compared(FOLDERS["paper"], FOLDERS["dense"], -0.05)
    other_way = compared(FOLDERS["dense"], FOLDERS["paper"], 0.5)
    latest = compared(FOLDERS["paper"], FOLDERS["dense"], -0.09)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in ladder(earlier, latest, other_way).split("\n")
    ]
    assert lines[2] == ["dense", "91.0 ± 1.4", "-", "-", "100.0 %"]
    assert lines[3] == ["the paper's method", "82.0 ± 2.8", "-9.0 [-11.0, -6.0]", "3.0 %", "37.0 %"]


def test_a_step_that_was_not_run_is_named(ladder: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"sst2\.jsonl: has no run of step \"the paper's method\""):
        ladder(without="paper")


def test_a_missing_comparison_is_named(ladder: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"no comparison of paper-0\.3-seed\{seed\}-distill.weight_0.0 with dense-1.0"):
        ladder()


def test_runs_of_neighboring_steps_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []

    def compare(words: list[str]) -> int:
        calls.append(words)
        return 2 if len(calls) == 1 else 0

    monkeypatch.setattr(paired_comparison, "main", compare)
    words = [str(tmp_path), "--list", str(INGREDIENTS), "--seeds", "4", "--record", "ladder.jsonl"]
    assert main(words) == 2
    entries = read_list(INGREDIENTS)
    assert len(calls) == len(entries) - 1
    assert calls[-1] == [
        *(str(tmp_path / f"adaptive-0.3-seed{{seed}}-{name}") for name in DISTILLED),
        *("--seeds", "4", "--record", "ladder.jsonl"),
    ]
    assert capsys.readouterr().out.splitlines() == [entry.name for entry in entries[1:]]
