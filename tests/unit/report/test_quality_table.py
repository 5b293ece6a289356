"""Quality tables of records, on numbers computed by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.records import append_record, write_record
from retention.report import main
from retention.report.quality_table import quality_table
from retention.report.run_tables import run_tables

_DATES = iter(f"2026-01-01T00:{minute:02d}:{second:02d}+00:00" for minute in range(60) for second in range(60))


def record(policy: str = "adaptive", rho: float = 0.3, value: float | None = 0.8, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": "quality",
        "task": "sst2",
        "data": {"source": "SST-2 (GLUE)", "train": 100, "test": 50},
        "policy": policy,
        "backbone": "distilbert",
        "rho": rho,
        "seed": 1,
        "keep_ratio": {"mean": 0.31, "by_layer": {"0": 0.31}},
        "flops_ratio": 0.4,
        "metrics": {"accuracy": value},
        "monitor": "accuracy",
        "config": {"seed": 1, "trainer": {"epochs": 2}},
        "date": next(_DATES),
    }
    return fields | changes


def cells(table: str) -> list[list[str]]:
    """Rows of the table's body, cell by cell."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_means_deviations_and_differences_from_dense() -> None:
    records = [
        record("adaptive", value=0.80, seed=1),
        record("adaptive", value=0.83, seed=2),
        record("adaptive", value=0.86, seed=3),
        record("dense", 1.0, 0.90, keep_ratio={"mean": 1.0, "by_layer": {}}, flops_ratio=1.0),
    ]
    assert cells(quality_table(records)) == [
        ["dense", "1", "90.0 (1)", "100.0 %", "100.0 %", "-"],
        ["adaptive", "0.3", "83.0 ± 3.0 (3)", "31.0 %", "40.0 %", "-7.0"],
    ]


def test_rows_are_sorted_by_policy_and_keep_ratio() -> None:
    records = [record("random", 0.3), record("adaptive", 0.3), record("adaptive", 0.5), record("dense", 1.0)]
    assert [row[:2] for row in cells(quality_table(records))] == [
        ["dense", "1"],
        ["adaptive", "0.5"],
        ["adaptive", "0.3"],
        ["random", "0.3"],
    ]


def test_missing_runs_are_marked() -> None:
    imdb = {"task": "imdb", "data": {"source": "IMDb", "train": 9, "test": 5}}
    records = [record("dense", 1.0, 0.9), record("random", 0.3, 0.7, **imdb)]
    dense, random = cells(quality_table(records))
    assert dense == ["dense", "1", *["not run"] * 4, "90.0 (1)", "31.0 %", "40.0 %", "-"]
    assert random == ["random", "0.3", "70.0 (1)", "31.0 %", "40.0 %", "dense not run", *["not run"] * 4]


def test_runs_on_other_data_get_separate_columns() -> None:
    other = {"source": "stand-in reviews", "train": 100, "test": 50}
    table = quality_table([record(value=0.8, seed=1), record(value=0.6, seed=2, data=other)])
    assert cells(table)[0][2::4] == ["80.0 (1)", "60.0 (1)"]
    assert "[1] sst2: SST-2 (GLUE), 100 training and 50 test rows, distilbert" in table
    assert "[2] sst2: stand-in reviews, 100 training and 50 test rows, distilbert" in table


def test_runs_with_other_settings_get_a_separate_row() -> None:
    nonzero = {"retention": {"dual": {"count": "nonzero"}}, "seed": 2}
    sigmoid = {"retention": {"dual": {"count": "sigmoid"}}, "seed": 1}
    records = [record(value=0.8, config=sigmoid), record(value=0.6, seed=2, config=nonzero)]
    assert [(row[0], row[2]) for row in cells(quality_table(records))] == [
        ("adaptive (retention.dual.count=nonzero)", "60.0 (1)"),
        ("adaptive (retention.dual.count=sigmoid)", "80.0 (1)"),
    ]


def test_later_run_of_a_seed_counts() -> None:
    late, early = record(value=0.8, date="2026-03-02"), record(value=0.6, date="2026-03-01")
    assert cells(quality_table([late, early]))[0][2] == "80.0 (1)"


def test_older_run_with_another_precision_is_named() -> None:
    configs = [{"seed": 1, "trainer": {"precision": precision}} for precision in ("32-true", "bf16-mixed")]
    early, late = [record(value=value, config=config) for value, config in zip((0.6, 0.8), configs, strict=True)]
    *_, line = run_tables([late, early]).splitlines()
    named = "adaptive at keep ratio 0.3, seed 1 (trainer.precision=32-true (not bf16-mixed))"
    assert line == f"Left out: 1 older run of equal settings and seed, whose configuration differs: {named}"
    assert "Left out" not in run_tables([record(), record()]), "repetitions are not worth a line"


def test_runs_on_training_rows_of_other_seeds_have_rows_of_their_own() -> None:
    configs = [{"seed": 1, "data": {"seed": seed}} for seed in (1, 2)]
    records = [record(value=value, config=config) for value, config in zip((0.6, 0.8), configs, strict=True)]
    rows = [(row[0], row[2]) for row in cells(quality_table(records))]
    assert rows == [("adaptive", "60.0 (1)"), ("adaptive (data.seed=2)", "80.0 (1)")]


def test_tested_models_with_unknown_training_rows_are_in_the_table_of_their_training() -> None:
    unknown = {"source": "SST-2 (GLUE)", "train": None, "test": 50}
    tested = record(rho=0.5, value=0.9, data=unknown)
    assert "[2]" not in run_tables([record(), tested])
    table = run_tables([record(), record(rho=0.1, data=unknown | {"train": 90}), tested])
    assert "? training and 50 test rows" in table and "None" not in table, "trained with 90 or 100 rows"
    assert "[2]" in run_tables([record(config={"seed": 1}), tested]), "of another training"


def test_tested_fold_with_unknown_training_rows() -> None:
    data = {"source": "rows", "train": None, "val": 8, "test": 27, "folds": 3}
    assert "? training and 27 test rows" in quality_table([record(data=data)])


def test_dense_reference_has_equal_training_settings_whatever_it_scores() -> None:
    settings = [{"task": {"epochs": epochs}} for epochs in (1, 3)]
    dense = [record("dense", 1.0, value, config=config) for value, config in zip((0.8, 0.9), settings, strict=True)]
    pruned = [record("random", 0.5, 0.7, config=config) for config in settings]
    assert [row[-1] for row in cells(quality_table([*dense, *pruned]))[-2:]] == ["-10.0", "-20.0"]
    reversed_scores = [record("dense", 1.0, 0.9, config=settings[0]), record("dense", 1.0, 0.8, config=settings[1])]
    assert [row[-1] for row in cells(quality_table([*reversed_scores, *pruned]))[-2:]] == ["-20.0", "-10.0"]


def test_dense_runs_with_other_training_settings_are_no_reference() -> None:
    dense = record("dense", 1.0, 0.9, config={"distill": {"token_states": 1}})
    pruned = record("random", 0.5, 0.7, config={"distill": {"token_states": 0}})
    assert cells(quality_table([dense, pruned]))[-1][-1] == "no like reference"


def test_settings_of_pruned_runs_alone_do_not_matter_for_the_reference() -> None:
    dense = record("dense", 1.0, 0.9, config={"phases": {"pruning_start": 0.4}, "ckpt": None})
    trained = {"phases": {"pruning_start": 0.0}, "distill": {"saliency": 3.0}, "budgets": {"sampled": 1}}
    assert cells(quality_table([dense, record("adaptive", 0.5, 0.7, config=trained)]))[-1][-1] == "-20.0"


def test_reference_with_most_seeds_is_chosen_whatever_it_scores() -> None:
    early, late = ({"trainer": {"epochs": 2}, "phases": {"pruning_start": start}} for start in (0.1, 0.4))
    usual = [record("dense", 1.0, 0.8, seed=seed, config=early) for seed in range(3)]
    lucky = [record("dense", 1.0, 0.9, seed=seed, config=late) for seed in range(2)]
    assert cells(quality_table([*usual, *lucky, record("random", 0.5, 0.7)]))[-1][-1] == "-10.0"


def test_diverged_run_has_no_number() -> None:
    table = quality_table([record(value=None), record("dense", 1.0, 0.9)])
    assert cells(table)[1][2:] == ["no number (1)", "31.0 %", "40.0 %", "no number"]


def test_unmeasured_keep_ratio_is_marked() -> None:
    assert cells(quality_table([record(keep_ratio={"mean": None, "by_layer": {}})]))[0][3] == "not measured"


def test_lines_are_aligned_and_bars_escaped() -> None:
    table = quality_table([record("a|b"), record("dense", 1.0, 1.0)])
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert "a\\|b" in table


def test_speed_records_are_left_out() -> None:
    assert len(cells(quality_table([record(), {"kind": "speed"}]))) == 1


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no quality records"),
        ([{"kind": "speed"}], "no quality records"),
        ([{"kind": "quality", "date": "2026"}], "record of 2026: lacks task, data, policy"),
        ([record(value=88.0)], r"metric accuracy is 88.0; .* \[-1, 1\]"),
        ([record(monitor="f1")], "has no metric 'f1', its monitor; it has accuracy"),
    ],
)
def test_unusable_records_are_named(records: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        quality_table(records)


def test_command_prints_the_table_of_run_folders_and_record_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path / "run" / "record.json", record("dense", 1.0, 0.9))
    append_record(tmp_path / "runs.jsonl", record("random", 0.3, 0.7))
    assert main([str(tmp_path / "run"), str(tmp_path / "runs.jsonl")]) == 0
    assert [row[0] for row in cells(capsys.readouterr().out)] == ["dense", "random"]
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_command_prints_the_tables_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    for number, policy in enumerate(("dense", "random", "adaptive")):
        write_record(sweep / str(number) / "record.json", record(policy, 0.5, 0.7))
    validated = record("random", 0.5, 0.6, kind="validation", data={"source": "SST-2 (GLUE)", "train": 100, "val": 20})
    write_record(sweep / "3" / "validation.json", validated)
    write_record(sweep / "3" / "record.replaced.json", record("truncate", 0.5, 0.7))
    decoding = {"kind": "decoding", "task": "text", "policy": "full", "size": 64, "seed": 0, "loss": 3.5}
    write_record(sweep / "4" / "record.json", decoding)
    append_record(sweep / "4" / "results.jsonl", {**decoding, "policy": "random"})
    append_record(sweep / "4" / "results.jsonl", decoding)
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    decoders, tested, on_validation_rows = re.split(r"\n(?=\| policy|Scores)", printed, maxsplit=2)
    assert [row[2] for row in cells(decoders)] == ["full", "random"]
    assert [row[0] for row in cells(tested)] == ["dense", "adaptive", "random"]
    assert [row[0] for row in cells(on_validation_rows)] == ["random"] and "20 validation rows" in on_validation_rows
    assert main([str(sweep / "3")]) == 0
    assert "Scores on validation rows" in capsys.readouterr().out


def test_command_shows_the_baselines_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "run" / "record.json", record("adaptive", 0.5, 0.7))
    write_record(tmp_path / "run" / "dense" / "record.json", record("dense", 1.0, 0.8))
    assert main([str(tmp_path / "run")]) == 0
    assert [row[0] for row in cells(capsys.readouterr().out)] == ["dense", "adaptive"]


def test_folder_without_a_run_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "holds no record.json" in message and "of a finished run or of a sweep" in message
