"""Runs compared sample by sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import log, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from retention.errors import DataError
from retention.records import read_records
from retention.report.paired_comparison import (
    compare_runs,
    divergences,
    format_comparison,
    main,
    row_probabilities,
    row_scores,
)

RECORD = {
    "kind": "quality",
    "task": "arxiv",
    "data": {"source": "papers", "test": 4},
    "backbone": "minilm",
    "seed": 0,
    "commit": "abc",
}

KINDS = ("adaptive", "random")


def run(folder: Path, scores: Mapping[str, float | None], **fields: Any) -> Path:
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps({**RECORD, "policy": folder.name, "rho": 0.3, **fields}))
    rows = [{"question_id": name} | ({} if score is None else {"score": score}) for name, score in scores.items()]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_differences_are_taken_row_by_row(tmp_path: Path) -> None:
    first = run(tmp_path / "adaptive", {"a": 1.0, "b": 0.5, "c": 0.0, "d": 1.0})
    second = run(tmp_path / "random", {"d": 1.0, "c": 0.25, "b": 0.0, "a": 0.0})  # another order
    result = compare_runs([first], [second])
    differences = [1.0, 0.5, -0.25, 0.0]
    margin = 3.182446 * stdev(differences) / sqrt(4)
    mean = fmean(differences)
    fixed_models = {key: result.difference[key] for key in ("mean", "low", "high")}
    assert fixed_models == pytest.approx({"mean": mean, "low": mean - margin, "high": mean + margin})
    assert result.difference["bootstrap_low"] < mean < result.difference["bootstrap_high"]
    assert (result.rows, result.better, result.worse, result.equal) == (4, 2, 1, 1)
    assert (result.first["policy"], result.first["score"], result.second["score"]) == ("adaptive", 0.625, 0.3125)
    line = format_comparison(result)
    assert line.startswith("arxiv: adaptive 0.3 (seed 0) 62.5, random 0.3 (seed 0) 31.2: +31.2 [") and "4 rows" in line
    back = compare_runs([second], [first])
    assert back.difference["mean"] == -mean and back.difference["low"] == pytest.approx(-result.difference["high"])


def test_rows_of_documents_are_resampled_by_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = {f"{letter}{number}": letter for letter in "abcd" for number in range(10)}
    scores = {name: float(letter in "ab") for name, letter in documents.items()}
    folders = [run(tmp_path / name, scores if name == "adaptive" else dict.fromkeys(scores, 0.0)) for name in KINDS]
    by_row = compare_runs(folders[:1], folders[1:])
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        lines = [json.dumps({**row, "document": documents[row["question_id"]]}) for row in rows]
        (folder / "predictions.jsonl").write_text("\n".join(lines))
    assert main([*map(str, folders), "--record", str(tmp_path / "paired.jsonl")]) == 0
    [record] = read_records([tmp_path / "paired.jsonl"])
    assert (by_row.documents, record["documents"], record["rows"]) == (None, 4, 40)
    assert record["difference"]["mean"] == by_row.difference["mean"] == 0.5
    for low, high in (("low", "high"), ("bootstrap_low", "bootstrap_high")):
        assert record["difference"][low] == 0.0 < by_row.difference[low]
        assert record["difference"][high] == 1.0 > by_row.difference[high]
    assert "on 40 rows of 4 documents" in capsys.readouterr().out


def test_rows_of_all_folds_are_compared_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"adaptive": ((1.0, 0.0), (1.0, 1.0, 1.0)), "random": ((0.0, 0.0), (1.0, 0.0, 1.0))}
    for name in KINDS:
        for seed, fold in enumerate(scores[name]):
            rows = {str(row): score for row, score in enumerate(fold)}
            run(tmp_path / f"{name}{seed}", rows, seed=seed, data={**RECORD["data"], "folds": 2, "test": len(fold)})
    patterns = [str(tmp_path / f"{name}{{seed}}") for name in KINDS]
    assert main([*patterns, "--seeds", "0", "1", "--record", str(tmp_path / "paired.jsonl")]) == 0
    [record] = read_records([tmp_path / "paired.jsonl"])
    assert (record["rows"], record["better"], record["worse"], record["equal"]) == (5, 2, 0, 3)
    assert record["difference"]["mean"] == pytest.approx(2 / 5)
    assert record["first"]["seed"] == [0, 1] and record["by_seed"] is None
    assert "(seeds 0, 1) 80.0" in capsys.readouterr().out

    again = [run(tmp_path / f"{name}2", {"0": 1.0}, seed=2, data={**RECORD["data"], "folds": 2}) for name in KINDS]
    same_fold = [[tmp_path / f"{name}0", folder] for name, folder in zip(KINDS, again, strict=True)]
    with pytest.raises(DataError, match="two runs test the same fold of 2; compare runs of seeds 0 to 1"):
        compare_runs(*same_fold)
    drawn_alike = {"config": {**RECORD.get("config", {}), "data": {"seed": 0}}, "data": {**RECORD["data"], "folds": 2}}
    same_rows = [
        [run(tmp_path / f"{name}{seed}x", {"0": 1.0}, seed=seed, **drawn_alike) for seed in (0, 1)] for name in KINDS
    ]
    with pytest.raises(DataError, match="two runs test the same fold of 2"):
        compare_runs(*same_rows)
    other = run(tmp_path / "whole", {"0": 1.0, "1": 0.0})
    with pytest.raises(DataError, match=r"differ in the number of folds \(2, None\)"):
        compare_runs([tmp_path / "adaptive0"], [other])


def test_rows_with_other_labels_are_other_rows(tmp_path: Path) -> None:
    folders = [run(tmp_path / name, {"0": 1.0, "1": 0.0, "2": 1.0}) for name in KINDS]
    for folder, labels in zip(folders, ([0, 1, 1], [0, 1, 0]), strict=True):
        rows = [{"index": row, "score": 1.0, "label": label} for row, label in enumerate(labels)]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"different rows: 1 of 3 have another label, for example 2; test both"):
        compare_runs(folders[:1], folders[1:])


def test_divergences_from_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probabilities = {
        "dense": {"a": [0.9, 0.1], "b": [0.2, 0.8], "c": [1.0, 0.0]},
        "near": {"a": [0.8, 0.2], "b": [0.2, 0.8], "c": [0.5, 0.5]},
        "far": {"a": [0.1, 0.9], "b": [0.3, 0.7], "c": [0.5, 0.5]},
    }
    folders = {name: run(tmp_path / name, dict.fromkeys("abc", 1.0)) for name in probabilities}
    for name, rows in probabilities.items():
        lines = [json.dumps({"index": row, "score": 1.0, "probabilities": values}) for row, values in rows.items()]
        (folders[name] / "predictions.jsonl").write_text("\n".join(lines))
    near = [0.9 * log(0.9 / 0.8) + 0.1 * log(0.1 / 0.2), 0.0, log(2.0)]
    far = [0.9 * log(0.9 / 0.1) + 0.1 * log(0.1 / 0.9), 0.2 * log(0.2 / 0.3) + 0.8 * log(0.8 / 0.7), log(2.0)]
    result = compare_runs([folders["near"]], [folders["far"]], [folders["dense"]])
    assert result.first["score"] == pytest.approx(fmean(near), abs=1e-4)
    assert result.second["score"] == pytest.approx(fmean(far), abs=1e-4)
    assert result.difference["mean"] == pytest.approx(fmean(near) - fmean(far), abs=1e-4)
    assert (result.better, result.worse, result.equal, result.measure) == (2, 0, 1, "divergence")
    words = [str(folders["near"]), str(folders["far"]), "--reference", str(folders["dense"])]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert (
        printed.startswith("arxiv, divergence from dense 0.3 (seed 0): near 0.3 (seed 0) 0.24")
        and " nats on 3" in printed
    )
    (folders["far"] / "predictions.jsonl").write_text(lines[0])
    with pytest.raises(DataError, match="were tested on different rows"):
        compare_runs([folders["near"]], [folders["far"]], [folders["dense"]])


def test_every_label_of_a_multilabel_row_counts(tmp_path: Path) -> None:
    read = []
    for name, values in (("dense", [0.9, 0.5]), ("student", [0.9, 0.25])):
        (tmp_path / name).write_text(json.dumps({"index": "a", "prediction": [0], "probabilities": values}))
        read.append(row_probabilities(tmp_path / name))
    apart = divergences(*read)
    assert apart["a"] == pytest.approx(0.5 * log(2) + 0.5 * log(0.5 / 0.75))


def test_divergence_requires_probabilities(tmp_path: Path) -> None:
    folders = [run(tmp_path / name, {"a": 1.0}) for name in "xyz"]
    with pytest.raises(DataError, match=r":1: has no probabilities, the task has none"):
        compare_runs(*([folder] for folder in folders))


def test_runs_on_other_rows_are_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {"a": 1.0, "b": 0.0})
    for other in (
        run(tmp_path / "fewer", {"a": 1.0}),
        run(tmp_path / "others", {"a": 1.0, "c": 0.0}),
        run(tmp_path / "elsewhere", {"a": 1.0, "b": 0.0}, data={"source": "reviews"}),
    ):
        with pytest.raises(DataError, match="were tested on different rows"):
            compare_runs([first], [other])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"index": 0, "score": 1}', '{"index": 0, "score": 0}'], r":2: names row 0 a second time"),
        (['{"id": "x", "texts": []}'], ":1: has no score, this task is not scored row by row"),
        (['{"score": 1.0}'], ":1: has none of index, question_id, id"),
        ([], "is empty; test the model again"),
    ],
)
def test_unusable_prediction_files_are_named(lines: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(DataError, match=message):
        row_scores(path)
    with pytest.raises(DataError, match="cannot be read"):
        row_scores(tmp_path / "nothing.jsonl")


def test_command_appends_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / name, {"a": score, "b": 0.5}) for name, score in (("x", 1.0), ("y", 0.5), ("z", 0.0))]
    records = tmp_path / "paired.jsonl"
    assert main([*map(str, folders), "--record", str(records)]) == 0
    assert [line.split(": ")[1].split(" (")[0] for line in capsys.readouterr().out.splitlines()] == ["x 0.3", "x 0.3"]
    records_read = read_records([records])
    assert [record["second"]["policy"] for record in records_read] == ["y", "z"]
    assert {record["kind"] for record in records_read} == {"paired"} and records_read[0]["difference"]["mean"] == 0.25
    assert main([str(folders[0]), str(tmp_path)]) == 2
    assert "holds no record.json" in capsys.readouterr().err


def test_several_seeds_are_averaged_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {
        "student0": {"a": 1.0, "b": 0.0, "c": 1.0},
        "student1": {"c": 0.0, "b": 1.0, "a": 1.0},  # another order
        "dense0": {"a": 1.0, "b": 1.0, "c": 0.0},
        "dense1": {"a": 0.0, "b": 1.0, "c": 1.0},
    }
    folders = {name: run(tmp_path / name, rows, seed=int(name[-1])) for name, rows in scores.items()}
    result = compare_runs([folders["student0"], folders["student1"]], [folders["dense0"], folders["dense1"]])
    differences = [0.5, -0.5, 0.0]
    margin = 4.302653 * stdev(differences) / sqrt(3)
    fixed_models = {key: result.difference[key] for key in ("mean", "low", "high")}
    assert fixed_models == pytest.approx({"mean": 0.0, "low": -margin, "high": margin})
    assert (result.better, result.worse, result.equal, result.by_seed) == (1, 1, 1, pytest.approx((0.0, 0.0)))
    assert (result.first["seed"], result.first["score"]) == ([0, 1], pytest.approx(4 / 6))
    patterns = [str(tmp_path / "student{seed}"), str(tmp_path / "dense{seed}")]
    record = tmp_path / "paired.jsonl"
    assert main([*patterns, "--seeds", "0", "1", "--record", str(record)]) == 0
    printed = capsys.readouterr().out
    assert "(seeds 0, 1) 66.7" in printed and printed.rstrip().endswith("by seed +0.0, +0.0")
    [stored] = read_records([record])
    assert (stored["seed"], stored["first"]["seed"], stored["by_seed"]) == (0, [0, 1], [0.0, 0.0])
    with pytest.raises(DataError, match="different seeds"):
        compare_runs([folders["student0"], folders["student1"]], [folders["dense1"], folders["dense0"]])
    assert main([str(folders["student0"]), str(folders["dense0"]), "--seeds", "0", "1"]) == 2
    assert "its seed appears twice" in capsys.readouterr().err


def test_interval_carries_the_variation_between_seeds(tmp_path: Path) -> None:
    folders: dict[str, list[Path]] = {"pruned": [], "dense": []}
    for seed, gain in enumerate((0.0, 0.3, 0.6)):
        for name, shift in (("pruned", gain), ("dense", 0.0)):
            scores = {f"row{row}": 0.1 + shift for row in range(20)}
            folders[name].append(run(tmp_path / f"{name}{seed}", scores, seed=seed))
    difference = compare_runs(folders["pruned"], folders["dense"]).difference
    assert difference["high"] - difference["low"] == pytest.approx(0.0), "with the models fixed, no row differs"
    assert difference["bootstrap_low"] == pytest.approx(0.0) and difference["bootstrap_high"] == pytest.approx(0.6)
