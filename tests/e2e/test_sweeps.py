"""Test sweeps that are killed, restarted, fail in part, or run in several processes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from retention.tasks.classification.keywords import KeywordData

ROOT = Path(__file__).parents[2]
TINY = ("data.train_size=16", "data.test_size=8", "task.data.val_size=8")
GRID = ("retention=dense,random,adaptive", "retention.rho=0.5,0.25", "seed=0,1")
KILLED_JOB = 7
# Runs run.py, and is killed in the seventh job: its checkpoint is there, its record is not.
KILLED = f"""
import os, signal
import retention.experiment.run as experiment
fit, jobs = experiment.fit, []
def fit_and_die(*given, **named):
    trained = fit(*given, **named)
    jobs.append(given)
    if len(jobs) == {KILLED_JOB}:
        os.kill(os.getpid(), signal.SIGKILL)
    return trained
experiment.fit = fit_and_die
command = {str(ROOT / "run.py")!r}
exec(compile(open(command).read(), command, "exec"), {{"__name__": "__main__"}})
"""


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_finished_run_is_not_repeated(
    finished: Any, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retention.experiment.run.run_one", lambda *_: pytest.fail("the run was repeated"))
    records = tmp_path / "late.jsonl"
    measured = (finished.folder / "metrics.csv").read_text()
    for _ in range(2):
        [record] = start(finished.folder, f"record={records}")
        assert record == json.loads(json.dumps(finished.record))
    assert lines(records) == [record], "its record counts, once"
    assert (finished.folder / "metrics.csv").read_text() == measured


def test_changed_configuration_is_run_again(finished: Any, start: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    [record] = start(folder, "retention.rho=0.5")
    assert record["rho"] == 0.5
    assert json.loads((folder / "record.json").read_text())["rho"] == 0.5
    assert json.loads((folder / "record.replaced.json").read_text())["rho"] == 0.25


def test_run_whose_data_files_have_changed_is_repeated(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, folder = tmp_path / "train.csv", tmp_path / "run"
    monkeypatch.setattr(KeywordData, "data_files", lambda self: [file])
    file.write_text("text,label\na,0\n")
    [first] = start(folder, *TINY)
    assert list(json.loads((folder / "data_files.json").read_text())) == [str(file)]
    file.write_text("text,label\nb,0\n")
    with caplog.at_level("WARNING"):
        start(folder, *TINY)
    assert "train.csv has changed" in caplog.text
    assert json.loads((folder / "record.replaced.json").read_text()) == json.loads(json.dumps(first))
    caplog.clear()
    start(folder, *TINY)
    assert "train.csv" not in caplog.text, "it was finished with these rows"


@pytest.mark.slow
def test_killed_and_restarted_sweep_equals_an_uninterrupted_one(command_line: Any, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    sweep, straight = tmp_path / "sweep", tmp_path / "straight"
    typed = (*GRID, *TINY, f"hydra.sweep.dir={sweep}", f"record={tmp_path / 'runs.jsonl'}")
    killed = command_line(*typed, flags=["-m"], script=script)
    assert killed.returncode == -signal.SIGKILL
    before = {path: path.read_text() for path in sweep.rglob("record.json")}
    assert len(before) == KILLED_JOB - 1 and len(list(sweep.rglob("last.ckpt"))) == KILLED_JOB
    assert not (sweep / "table.md").exists() and not list(sweep.rglob("*.tmp"))

    restarted = command_line(*typed, flags=["-m"])
    assert restarted.returncode == 0, restarted.stderr[-2000:]
    assert restarted.stdout.count("already finished") == KILLED_JOB - 1
    assert {path: path.read_text() for path in before} == before, "what was finished is left alone"

    whole = command_line(*GRID, *TINY, f"hydra.sweep.dir={straight}", flags=["-m"])
    assert whole.returncode == 0, whole.stderr[-2000:]
    table = (sweep / "table.md").read_text()
    assert table == (straight / "table.md").read_text()
    assert table in restarted.stdout
    for path in (sweep / "records.jsonl", tmp_path / "runs.jsonl"):
        runs = [(each["config"]["retention"]["rho"], each["policy"], each["seed"]) for each in lines(path)]
        assert len(runs) == len(set(runs)) == 12, path


@pytest.mark.slow
def test_failed_job_does_not_stop_the_sweep(command_line: Any, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    typed = ("sweep=figure2_beta", "retention.beta=0.66,-1,0.5", "seed=0", *TINY, f"hydra.sweep.dir={sweep}")
    for already in (0, 2):
        done = command_line(*typed)  # the recipe itself asks for a sweep
        assert done.returncode == 1
        assert done.stdout.count("already finished") == already
        assert "Traceback" not in done.stderr + done.stdout
        assert [each["config"]["retention"]["beta"] for each in lines(sweep / "records.jsonl")] == [0.5, 0.66]
        table = (sweep / "table.md").read_text()
        assert table in done.stdout
        assert table.count("1 of 3 jobs failed") == 1 and "adaptive (retention.beta=0.5)" in table
        [folder] = [line.strip() for line in table.splitlines() if line.startswith(f"  {sweep}")]
        message = "retention.beta: the temperature must be > 0, got -1"
        assert message in table and message in (Path(folder) / "run.log").read_text()


@pytest.mark.slow
def test_stage_two_starts_from_the_dense_model_of_the_same_seed(command_line: Any, tmp_path: Path) -> None:
    """Run the two commands in the header of conf/sweep/dense.yaml."""
    stage_one = command_line("sweep=dense", "seed=0,1", *TINY, f"hydra.sweep.dir={tmp_path}/dense", flags=["-m"])
    assert stage_one.returncode == 0, stage_one.stderr[-2000:]
    [name] = (tmp_path / "dense" / "keywords").iterdir()
    init = f'init="{name}/seed${{seed}}/checkpoints/last.ckpt"'
    typed = ("sweep=table2", "retention=random", "seed=0,1", *TINY, "distill.weight=0.9", init)
    stage_two = command_line(*typed, f"hydra.sweep.dir={tmp_path}/table2", flags=["-m"])
    assert stage_two.returncode == 0, stage_two.stderr[-2000:]
    configs = {each["seed"]: each["config"] for each in lines(tmp_path / "table2" / "records.jsonl")}
    assert sorted(configs) == [0, 1]
    for seed, config in configs.items():
        [folder] = (tmp_path / "table2").glob(f"keywords/*/seed{seed}")
        started = OmegaConf.load(folder / "config.yaml").init
        assert started == str(name / f"seed{seed}" / "checkpoints" / "last.ckpt")
        assert config["distill"]["weight"] == 0.9


@pytest.mark.slow
def test_jobs_in_separate_processes(command_line: Any, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'adaptive-retention[sweep]'")
    sweep = tmp_path / "sweep"
    typed = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={sweep}", *TINY)
    for already in (0, 1):
        done = command_line(*typed, "retention=random", "retention.rho=0.5,1.7", flags=["-m"])
        assert done.returncode == 1, done.stderr[-2000:]
        table = (sweep / "table.md").read_text()
        assert "1 of 2 jobs failed" in table and "got 1.7" in table
        [record] = lines(sweep / "records.jsonl")
        assert record["rho"] == 0.5
        assert record["command"].startswith("python run.py -m ") and "retention.rho=0.5" in record["command"]
        logs = "".join(path.read_text() for path in sweep.rglob("run.log"))
        assert logs.count("already finished") == already
