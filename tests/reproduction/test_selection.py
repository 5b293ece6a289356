"""Choice of hyper-parameters on validation rows, and the runs that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from reproduction import selection, series
from reproduction.selection import HYPERPARAMETERS, candidates, choose, read_hyperparameters, selection_table
from reproduction.series import Job

from retention.errors import DataError
from retention.records import read_records

ROOT = Path(__file__).resolve().parents[2]
GRIDS = {"ltp": {"retention.rate": [5.0, 1.0, 25.0]}, "dense": {"task.lr": [0.1, 0.2], "task.head.dropout": [0, 0.3]}}
# Replaces run.py: appends a record; its validation score is the value of retention.rate, at most 9.
RUN = """
import json, pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
root = pathlib.Path(__file__).parent
with open(root / "commands", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "record" in words:
    rate = float(words.get("retention.rate", 0))
    record = {"kind": "validation" if words.get("evaluate") == "validation" else "quality", "seed": int(words["seed"])}
    record |= {"policy": words["retention"], "rho": float(words["retention.rho"]), "monitor": "accuracy"}
    record |= {"metrics": {"accuracy": min(rate, 9.0)}, "data": {"source": "made up", "val": 5}}
    record["command"] = "python run.py " + " ".join(sys.argv[1:])
    pathlib.Path(words["record"]).parent.mkdir(parents=True, exist_ok=True)
    with open(words["record"], "a") as file:
        file.write(json.dumps(record) + "\\n")
"""


def validation(job: Job, score: float, **changes: Any) -> dict[str, Any]:
    command = f"python run.py hydra.run.dir=outputs/quality/x/{job.name}"
    fixed = {"kind": "validation", "policy": job.policy, "rho": job.rho, "seed": job.seed, "command": command}
    data = {"source": "made up", "val": 5}
    return {**fixed, "monitor": "accuracy", "metrics": {"accuracy": score}, "data": data, **changes}


def test_every_combination_is_a_candidate() -> None:
    jobs = candidates("dense", 1, GRIDS, ["backbone.layers=3"])
    assert len(jobs) == 4 and len({job.name for job in jobs}) == 4
    assert jobs[1].overrides == ("backbone.layers=3", "task.lr=0.1", "task.head.dropout=0.3")
    assert {job.rho for job in candidates("ltp:0.3", 0, GRIDS)} == {0.3}
    with pytest.raises(DataError, match="magic has no values"):
        candidates("magic:0.3", 0, GRIDS)


def test_the_best_validation_score_is_chosen() -> None:
    jobs = candidates("ltp:0.3", 0, GRIDS)
    records = [validation(job, score) for job, score in zip(jobs, (0.7, 0.9, 0.8), strict=True)]
    assert choose(jobs, records) == jobs[1]
    assert choose(jobs, [*records, validation(jobs[2], 0.95)]) == jobs[2], "the later record of a job counts"
    tied = [validation(job, 0.5) for job in jobs]
    assert choose(jobs, tied) == jobs[0]
    test_score = validation(jobs[0], 0.99, kind="quality")
    assert choose(jobs, [*records, test_score]) == jobs[1], "test rows do not choose"
    table = selection_table({jobs[1]: jobs}, records)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[2:] for row in rows] == [["70.00", ""], ["90.00", "chosen"], ["80.00", ""]]


def test_missing_or_unlike_validations_are_refused() -> None:
    jobs = candidates("ltp:0.3", 0, GRIDS)
    records = [validation(job, 0.5) for job in jobs]
    with pytest.raises(DataError, match=r"ltp-0.3-seed0-retention.rate_25.0: has no validation record"):
        choose(jobs, records[:2])
    with pytest.raises(DataError, match="different rows"):
        choose(jobs, [*records[:2], validation(jobs[2], 0.5, data={"source": "made up", "val": 6})])


def test_chosen_models_are_tested_once_without_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.setattr(series, "ROOT", tmp_path)
    monkeypatch.setattr(selection, "ROOT", tmp_path)
    monkeypatch.setattr(selection, "read_hyperparameters", lambda: GRIDS)
    words = ["sst2_small", "--policies", "ltp:0.3", "--seeds", "0", "1"]
    assert selection.main([*words, "--validation-only"]) == 0
    commands = (tmp_path / "commands").read_text().splitlines()
    assert len(commands) == 4 and "retention=dense" in commands[0] and "evaluate" not in commands[0]
    assert all("evaluate=validation" in line for line in commands[1:])
    assert not (tmp_path / "results" / "quality").exists()
    assert selection.main(words) == 0
    new = (tmp_path / "commands").read_text().splitlines()[4:]
    tested = [line for line in new if "record=" in line]
    assert len(tested) == 2 and all("retention.rate=25.0" in line and "ckpt=last" in line for line in tested)
    assert not any("evaluate" in line for line in new)
    assert [record["seed"] for record in read_records([tmp_path / "results/quality/sst2_small_selected.jsonl"])] == [
        0,
        1,
    ]
    assert "chosen" in capsys.readouterr().out
    assert selection.main(words) == 0
    assert len((tmp_path / "commands").read_text().splitlines()) == 4 + len(new), "everything has a record"


def test_settings_of_the_file_are_valid(tmp_path: Path) -> None:
    grids = read_hyperparameters()
    for policy, grid in grids.items():
        for key, values in grid.items():
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                composed = [
                    compose("config", overrides=["experiment=sst2_small", f"retention={policy}", f"{key}={value}"])
                    for value in values
                ]
            assert len({str(each) for each in composed}) == len(values)
        assert len(grid) > 1 or len(next(iter(grid.values()))) == 3, "no method is tuned more than the others"
    broken = tmp_path / "grids.yaml"
    broken.write_text(yaml.safe_dump({"ltp": {"retention.rate": 5}}))
    with pytest.raises(DataError, match=r"grids.yaml: ltp: must be"):
        read_hyperparameters(broken)
    assert HYPERPARAMETERS.exists()
