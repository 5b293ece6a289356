"""Metrics of a whole test set from counts per row, and the interval of their difference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from retention.errors import DataError
from retention.records import read_records
from retention.report.corpus_metrics import CORPUS_METRICS
from retention.report.intervals import bootstrap_metric_interval
from retention.report.paired_comparison import compare_metric, main
from retention.tasks.classification.metrics import LabelSetF1, MacroF1
from retention.tasks.question_answering.cuad_metrics import CuadScore, match_clauses


def metric_of(name: str, rows: Sequence[dict[str, Any]]) -> float:
    metric = CORPUS_METRICS[name]
    [counts] = metric.counts([rows])
    return float(metric.value(counts.sum(0)))


def test_f1_of_classes_equals_the_metric_of_the_task() -> None:
    generator = np.random.default_rng(0)
    predicted, labels = generator.integers(0, 6, 50).tolist(), generator.integers(0, 5, 50).tolist()
    rows = [{"prediction": p, "label": e} for p, e in zip(predicted, labels, strict=True)]
    assert metric_of("macro_f1", rows) == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert metric_of("macro_f1", rows) == pytest.approx(
        MacroF1().compute(predictions=predicted, references=labels)["macro_f1"]
    )


def test_f1_of_label_sets_equals_the_metric_of_the_task() -> None:
    generator = np.random.default_rng(1)
    draws = [[np.flatnonzero(generator.random(7) < 0.3).tolist() for _ in range(40)] for _ in range(2)]
    expected = LabelSetF1().compute(predictions=draws[0], references=draws[1])
    rows = [{"prediction": p, "label": e} for p, e in zip(*draws, strict=True)]
    for name in ("micro_f1", "macro_f1"):
        assert metric_of(name, rows) == pytest.approx(expected[name])


def test_area_under_the_curve_equals_the_metric_of_the_task() -> None:
    predictions = [
        {"texts": ["the first party", "nothing at all"], "scores": [0.9, 0.4]},
        {"texts": ["one year", "two years from now"], "scores": [0.2, 0.7]},
        {"texts": ["wrong"], "scores": [0.3]},
    ]
    references: list[dict[str, Any]] = [
        {"texts": ["first party", "second party"], "substring": False},
        {"texts": ["two years from"], "substring": False},
        {"texts": [], "substring": False},
    ]
    matches = [match_clauses(*pair) for pair in zip(predictions, references, strict=True)]
    rows = [{"clause_scores": found, "false_scores": wrong} for found, wrong in matches]
    expected = CuadScore().compute(predictions=predictions, references=references)["aupr"]
    assert 0.0 < expected < 1.0
    assert metric_of("aupr", rows) == pytest.approx(expected)


def test_interval_is_that_of_resampled_rows() -> None:
    generator = np.random.default_rng(2)
    first, second = (generator.integers(0, 2, (1, 30, 3)).astype(float) for _ in range(2))

    def value(sums: Any) -> Any:
        return sums[..., 0] / np.maximum(sums.sum(-1), 1)

    result = bootstrap_metric_interval(first, second, value, resamples=2000)
    differences = []
    for _ in range(2000):
        rows = generator.integers(0, 30, 30)
        differences.append(value(first[0, rows].sum(0)) - value(second[0, rows].sum(0)))
    low, high = np.quantile(differences, (0.025, 0.975))
    assert result.mean == pytest.approx(value(first[0].sum(0)) - value(second[0].sum(0)))
    assert (result.low, result.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def write_run(folder: Path, policy: str, seed: int, predictions: Sequence[int], labels: Sequence[int]) -> Path:
    folder.mkdir()
    record = {"kind": "quality", "task": "topics", "data": {"source": "posts"}, "policy": policy, "rho": 0.3}
    record |= {"seed": seed, "backbone": "tiny", "commit": "abc"}
    (folder / "record.json").write_text(json.dumps(record))
    rows = [
        {"index": index, "prediction": prediction, "label": label}
        for index, (prediction, label) in enumerate(zip(predictions, labels, strict=True))
    ]
    (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_command_compares_a_metric_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [0, 0, 0, 0, 1, 1, 2, 2]
    for seed, wrong in enumerate(([7], [6, 7])):
        write_run(
            tmp_path / f"good{seed}", "adaptive", seed, [0 if i in wrong else e for i, e in enumerate(labels)], labels
        )
        write_run(tmp_path / f"bad{seed}", "random", seed, [0] * 8, labels)
    options = ["--seeds", "0", "1", "--metric", "macro_f1", "--record", str(tmp_path / "paired.jsonl")]
    assert main([str(tmp_path / "good{seed}"), str(tmp_path / "bad{seed}"), *options]) == 0
    [record] = read_records([tmp_path / "paired.jsonl"])
    scores = [
        metric_of("macro_f1", [{"prediction": p, "label": e} for p, e in zip(predicted, labels, strict=True)])
        for predicted in ([0, 0, 0, 0, 1, 1, 2, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0] * 8)
    ]
    assert record["measure"] == "macro_f1" and record["rows"] == 8
    assert record["first"]["score"] == pytest.approx((scores[0] + scores[1]) / 2)
    assert record["by_seed"] == pytest.approx([scores[0] - scores[2], scores[1] - scores[2]])
    difference = record["difference"]
    assert difference["mean"] == pytest.approx(sum(record["by_seed"]) / 2)
    assert difference["bootstrap_low"] < difference["mean"] < difference["bootstrap_high"]
    assert "macro_f1" in capsys.readouterr().out


def test_unknown_metrics_and_rows_without_their_keys_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / name, name, 0, [0, 1], [0, 1]) for name in ("first", "second")]
    with pytest.raises(DataError, match="must be one of aupr"):
        compare_metric(runs[:1], runs[1:], "rouge")
    with pytest.raises(DataError, match=r"predictions\.jsonl:1: has no clause_scores, which aupr is computed from"):
        compare_metric(runs[:1], runs[1:], "aupr")
    with pytest.raises(SystemExit):
        main([*map(str, runs), "--metric", "aupr", "--reference", str(runs[0])])
    assert "--metric: not allowed with --reference" in capsys.readouterr().err
