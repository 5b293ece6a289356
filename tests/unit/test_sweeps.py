"""Test sweeps: failed jobs, and the report in the sweep's folder."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from retention.errors import ConfigError, Problem
from retention.experiment.folders import job_name, new_folder
from retention.experiment.hydra_setup import config_dir
from retention.experiment.sweeps import Sweep, write_report


def record(seed: int, accuracy: float | None = 0.5) -> dict[str, Any]:
    return {
        **{"kind": "quality", "task": "t", "data": {"source": "rows", "train": 8, "test": 4}, "policy": "adaptive"},
        **{"backbone": "tiny", "rho": 0.3, "seed": seed, "keep_ratio": {"mean": 0.3}, "flops_ratio": 0.4},
        **{"metrics": {"accuracy": accuracy}, "monitor": "accuracy", "config": {"seed": seed}, "date": "2026"},
    }


def run_folder(sweep: Path, seed: int) -> Path:
    folder = sweep / "t" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record(seed)))
    return folder


def job(folder: Path, *typed: str) -> DictConfig:
    """Return the part of a job's or sweep's configuration that the callback reads."""
    hydra = {
        "runtime": {"output_dir": str(folder)},
        "sweep": {"dir": str(folder.parent)},
        "overrides": {"task": list(typed)},
        "job": {"config": {"override_dirname": {"exclude_keys": ["sweep", "task", "seed", "init", "data.dir"]}}},
    }
    return OmegaConf.create({"hydra": hydra})


def ended(value: Any) -> JobReturn:
    failed = isinstance(value, Exception)
    return JobReturn(
        overrides=["seed=0"], status=JobStatus.FAILED if failed else JobStatus.COMPLETED, _return_value=value
    )


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return a sweep in ``tmp_path`` that has just started."""
    callback = Sweep()
    callback.on_multirun_start(job(tmp_path / "any"))
    return callback


def test_sweep_without_failures_writes_table_and_records(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 0):
        sweep.on_job_end(job(run_folder(tmp_path, seed)), ended(0.5))
    sweep.on_multirun_end(job(tmp_path / "any"))
    table = (tmp_path / "table.md").read_text()
    assert "50.0 ± 0.0 (2)" in table and "failed" not in table
    assert table in capsys.readouterr().out
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]


@pytest.mark.parametrize(
    ("error", "trace"), [(ConfigError([Problem("rho", "must be in (0, 1]")]), False), (RuntimeError("out of"), True)]
)
def test_failed_job_is_logged_and_marked_completed(
    error: Exception, trace: bool, sweep: Sweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = ended(error)
    sweep.on_job_end(job(tmp_path / "bad"), outcome)
    assert outcome.return_value is None, "the sweeper would raise it"
    assert str(error) in caplog.text
    assert any(entry.exc_info for entry in caplog.records) is trace, "errors of the user are shown without a traceback"


def test_failures_are_listed_and_set_the_exit_status(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.on_job_end(job(tmp_path / "bad"), ended(RuntimeError("out of memory\nfor good")))
    sweep.on_job_end(job(run_folder(tmp_path, 0)), ended(0.5))
    with pytest.raises(SystemExit) as caught:
        sweep.on_multirun_end(job(tmp_path / "any"))
    assert caught.value.code == 1
    table = (tmp_path / "table.md").read_text()
    assert f"1 of 2 jobs failed:\n  {tmp_path}/bad\n    RuntimeError: out of memory\n    for good\n" in table
    assert "50.0 (1)" in table
    assert table in capsys.readouterr().out


def test_failures_of_earlier_invocations_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = {1: Sweep(), 2: Sweep()}
    for process, sweep in sweeps.items():
        monkeypatch.setattr("retention.experiment.sweeps.os.getpid", lambda process=process: process)
        sweep.on_multirun_start(job(tmp_path / "any"))
    sweeps[1].on_job_end(job(tmp_path / "seed0"), ended(RuntimeError("no room")))
    sweeps[2].on_job_end(job(run_folder(tmp_path, 0)), ended(0.5))
    sweeps[2].on_multirun_end(job(tmp_path / "any"))
    assert "failed" not in (tmp_path / "table.md").read_text()


def test_launcher_processes_write_to_the_same_file(sweep: Sweep, tmp_path: Path) -> None:
    pickled = pickle.dumps(sweep)
    OmegaConf.clear_resolver("job_name")
    elsewhere = pickle.loads(pickled)
    assert OmegaConf.has_resolver("job_name"), "the job's folder is composed there"
    elsewhere.on_job_end(job(tmp_path / "bad"), ended(RuntimeError("lost")))
    with pytest.raises(SystemExit):
        sweep.on_multirun_end(job(tmp_path / "any"))


def test_swept_keys_that_share_a_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ("sweep=table1,table2", "data.dir=a,b", "init=c", "task=sst2,imdb", "seed=0,1", "retention.rho=0.5,0.3")
    with pytest.raises(SystemExit) as caught:
        Sweep().on_multirun_start(job(tmp_path / "any", *typed))
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "ConfigError: 2 problems" in message
    assert "  sweep: cannot be swept" in message and "  data.dir: " in message


@pytest.mark.parametrize("recipe", [False, True])
def test_swept_tasks_of_one_name_are_refused(recipe: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "task").mkdir()
    text = (config_dir() / "task" / "keywords.yaml").read_text()
    for option in ("shorter", "renamed"):
        (tmp_path / "task" / f"{option}.yaml").write_text(text.replace("name: keywords", f"name: {option}", 1))
    (tmp_path / "task" / "shorter.yaml").write_text(text.replace("max_length: 160", "max_length: 40"))

    def begin(tasks: str) -> None:
        others = ("retention=random,dense", "++trainer.max_steps=1,2")
        config = job(tmp_path / "any", *(() if recipe else (f"task={tasks}",)), *others)
        config.hydra.overrides.hydra = [f"hydra.searchpath=[file://{tmp_path}]"]
        config.hydra.job.config_name = "config"
        config.hydra.sweeper = {"params": {"task": tasks} if recipe else None}
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            Sweep().on_multirun_start(config)

    begin("keywords,renamed")
    begin("shorter")
    with pytest.raises(SystemExit) as caught:
        begin("keywords,renamed,shorter")
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "task: keywords and shorter are both named keywords" in message and "its own `name`" in message


def test_unreadable_record_sets_the_exit_status(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder(tmp_path, 0) / "record.json").write_text("{")
    with pytest.raises(SystemExit) as caught:
        sweep.on_multirun_end(job(tmp_path / "any"))
    assert caught.value.code == 1
    assert "record.json: not valid JSON" in capsys.readouterr().err


def test_single_run_is_not_handled(tmp_path: Path) -> None:
    outcome = ended(RuntimeError("boom"))
    Sweep().on_job_end(job(tmp_path), outcome)
    assert outcome.status is JobStatus.FAILED
    assert not list(tmp_path.iterdir())


def test_report_without_records(tmp_path: Path) -> None:
    report = write_report(tmp_path, [{"folder": "a", "error": "RuntimeError: x"}])
    assert report.startswith("No table: no quality records") and "1 of 1 jobs failed" in report
    assert (tmp_path / "records.jsonl").read_text() == ""


def test_validated_runs_have_a_table_of_their_own(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, 0)
    data = {"source": "rows", "train": 8, "val": 6, "test": None}
    (folder / "validation.json").write_text(json.dumps({**record(0, 0.75), "kind": "validation", "data": data}))
    both = write_report(tmp_path, [])
    assert "50.0 (1)" in both and "8 training and 4 test rows" in both
    (folder / "record.json").unlink()
    alone = write_report(tmp_path, [])
    assert "75.0 (1)" in alone and "8 training and 6 validation rows" in alone and "test rows" not in alone
    assert both.endswith(alone) and "No table" not in alone
    [line] = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "validation"


def test_records_put_aside_are_not_in_the_report(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, 0)
    (folder / "record.json").rename(folder / "record.replaced.json")
    run_folder(tmp_path, 1)
    write_report(tmp_path, [])
    assert [json.loads(x)["seed"] for x in (tmp_path / "records.jsonl").read_text().splitlines()] == [1]


def test_job_names_are_short_and_distinct() -> None:
    plain = "experiment=sst2_small,retention.gamma=-0.1,retention=adaptive"
    assert job_name(plain) == plain
    assert job_name("") == "defaults"
    long = ",".join(f"task.data.categories{number}=x" for number in range(40))
    names = {job_name(each) for each in (long, long + "y", "schedule=[0.5]", "schedule=(0.5)", "a=b/c", "a=b_c")}
    assert len(names) == 6
    assert all(len(name.encode()) <= 150 and "/" not in name for name in names)
    assert job_name(long) == job_name(long), "the same after a restart"


def test_runs_of_the_same_second_get_different_folders(tmp_path: Path) -> None:
    path = str(tmp_path / "sst2" / "2026-01-31_12-00-00")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(new_folder, [path] * 16))
    assert len(set(folders)) == 16 and path in folders
    assert all(Path(folder).is_dir() for folder in folders)
