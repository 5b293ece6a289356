"""Test the recognition of finished runs by record, configuration and input checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from retention.errors import CheckpointError, ConfigError, DataError
from retention.experiment.data_files import write_data_files
from retention.experiment.resume import (
    check_job_folder,
    check_ranks,
    check_resumed_training,
    check_strategy,
    finished_record,
    put_record_aside,
    trained_checkpoint,
)

RECORD = {"kind": "quality", "metrics": {"accuracy": 0.5}}
Make = Callable[..., DictConfig]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes the configuration of a run in ``tmp_path/run`` starting from ``dense.ckpt``."""
    (tmp_path / "dense.ckpt").touch()

    def build(**changes: Any) -> DictConfig:
        values = {
            "ckpt": None,
            "init": str(tmp_path / "dense.ckpt"),
            "distill": {"teacher": "${init}"},
            "record": None,
            "seed": 0,
            "paths": {"run_dir": str(tmp_path / "run")},
            "callbacks": {"checkpoint": {"dirpath": "${paths.run_dir}/checkpoints"}},
            "retention": {"beta": 0.66, "layers": [0, 1]},
            "optimizer": {"lr": 1e-5, "betas": {}},
        }
        config: DictConfig = OmegaConf.merge(OmegaConf.create(values), OmegaConf.create(changes))  # type: ignore
        OmegaConf.set_struct(config, True)
        return config

    return build


@pytest.fixture
def folder(make: Make, tmp_path: Path) -> Path:
    """Return the folder of a finished run."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(OmegaConf.to_yaml(make(), resolve=True))
    (run / "record.json").write_text(json.dumps(RECORD))
    return run


def test_unchanged_configuration_is_finished(make: Make, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = make()
    before = config.copy()
    assert finished_record(config) == RECORD
    assert config == before, "the configuration stays as it was"
    assert "already finished" in caplog.text


def test_folder_without_record_is_not_finished(make: Make, folder: Path) -> None:
    (folder / "record.json").unlink()
    assert finished_record(make()) is None
    shutil.rmtree(folder)
    assert finished_record(make()) is None


def test_target_file_of_the_record_does_not_matter(make: Make, folder: Path) -> None:
    assert finished_record(make(record="elsewhere.jsonl")) == RECORD


def test_moved_folder_is_finished(make: Make, folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "moved")
    assert finished_record(make(paths={"run_dir": str(moved)})) == RECORD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retention": {"beta": 0.5}}, "retention.beta: 0.66 -> 0.5"),
        ({"retention": {"layers": [0]}}, "retention.layers: [0, 1] -> [0]"),
        ({"retention": {"beta": None}}, "retention.beta: 0.66 -> None"),
        ({"retention": {"decay": 0.9}}, "retention.decay: not set -> 0.9"),
        ({"optimizer": {"betas": {"first": 1}}}, "optimizer.betas: {} -> not set"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"init": None}, "init: "),
        ({"callbacks": {"checkpoint": {"dirpath": "elsewhere"}}}, "callbacks.checkpoint.dirpath: "),
    ],
)
def test_changed_setting_is_logged_and_run_again(
    changes: dict[str, Any], message: str, make: Make, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished_record(make(**changes)) is None
    assert message in caplog.text and "running again" in caplog.text


def test_paths_are_compared_in_full(make: Make, folder: Path, tmp_path: Path) -> None:
    """Records shorten paths to their last two parts, which would take one dense model for another."""
    other = tmp_path / "b" / tmp_path.name / "dense.ckpt"
    assert finished_record(make(init=str(other))) is None


def test_newer_input_checkpoint_is_run_again(
    make: Make, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = (folder / "record.json").stat().st_mtime + 10
    os.utime(tmp_path / "dense.ckpt", (later, later))
    assert finished_record(make()) is None
    assert "init: " in caplog.text and "distill.teacher: " in caplog.text


@pytest.fixture
def rows(folder: Path, tmp_path: Path) -> Path:
    """Return a data file that the run in ``folder`` has read."""
    file = tmp_path / "train.csv"
    file.write_text("text,label\na,0\n")
    write_data_files(folder, [file])
    return file


def test_changed_data_file_is_run_again(
    make: Make, folder: Path, rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished_record(make(), [rows]) == RECORD
    os.utime(rows, (1, 1))
    assert finished_record(make(), [rows]) == RECORD, "the same rows, copied"
    rows.rename(tmp_path / "elsewhere.csv")
    assert finished_record(make(), []) == RECORD, "the run could not be repeated"
    rows.write_text("text,label\na,1\n")  # as many bytes
    assert finished_record(make(), [rows]) is None
    assert "train.csv has changed" in caplog.text and "choose another hydra.run.dir" in caplog.text
    assert finished_record(make(), [tmp_path / "elsewhere.csv"]) is None
    assert "elsewhere.csv is new" in caplog.text


def test_newer_data_file_of_a_run_that_did_not_describe_its_files_is_named(
    make: Make, folder: Path, rows: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "data_files.json").unlink()
    finished = (folder / "record.json").stat().st_mtime
    os.utime(rows, (finished - 10, finished - 10))
    assert finished_record(make(), [rows]) == RECORD and not caplog.messages
    os.utime(rows, (finished + 10, finished + 10))
    assert finished_record(make(), [rows]) == RECORD
    assert "train.csv was written after the run" in caplog.text and "remove the folder" in caplog.text


def test_job_of_a_sweep_does_not_replace_a_finished_run_with_changed_files(
    make: Make, folder: Path, rows: Path
) -> None:
    config = make(mode="fit", data={"dir": None}, distill={"teacher": None}, init=None)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    check_job_folder(config, [rows])
    rows.write_text("text,label\nb,0\n")
    with pytest.raises(ConfigError, match=r"train\.csv has changed since the finished run .*hydra\.sweep\.dir"):
        check_job_folder(config, [rows])


@pytest.mark.parametrize(("record", "evaluate"), [("record.json", "validation"), ("validation.json", "test")])
def test_finished_run_has_a_trained_model_for_other_rows(
    record: str, evaluate: str, make: Make, folder: Path, rows: Path
) -> None:
    def config(**changes: Any) -> DictConfig:
        return make(mode="fit", evaluate=evaluate, **changes)

    before = make(mode="fit", evaluate="test" if evaluate == "validation" else "validation")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(before, resolve=True))
    assert trained_checkpoint(config(), [rows]) is None, "no checkpoint"
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    os.utime(last, (1, 1))
    (folder / "record.json").rename(folder / record)
    assert trained_checkpoint(config(), [rows]) == trained_checkpoint(config(ckpt=str(last)), [rows]) == last
    assert trained_checkpoint(config(seed=1), [rows]) is None
    assert trained_checkpoint(config(ckpt="other.ckpt"), [rows]) is None
    assert trained_checkpoint(OmegaConf.merge(config(), {"mode": "test"}), [rows]) is None  # type: ignore[arg-type]
    later = (folder / record).stat().st_mtime + 10
    os.utime(last, (later, later))
    assert trained_checkpoint(config(), [rows]) is None, "a later training was interrupted"
    os.utime(last, (1, 1))
    rows.write_text("text,label\nb,0\n")
    assert trained_checkpoint(config(), [rows]) is None


def test_record_without_configuration_is_not_finished(make: Make, folder: Path) -> None:
    (folder / "config.yaml").unlink()
    assert finished_record(make()) is None


def test_broken_record_is_reported(make: Make, folder: Path) -> None:
    (folder / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"record\.json: not valid JSON"):
        finished_record(make())


def test_configuration_with_earlier_key_names_is_finished(make: Make, folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    assert "beta: 0.66" in text
    (folder / "config.yaml").write_text(text + "place: after_layer\n")
    assert finished_record(make(prune_at="after_layer")) == RECORD


def test_record_put_aside_does_not_count(make: Make, folder: Path) -> None:
    put_record_aside(folder)
    put_record_aside(folder)  # nothing left to do
    assert finished_record(make()) is None
    assert json.loads((folder / "record.replaced.json").read_text()) == RECORD


@pytest.mark.parametrize("record", ["record.json", "validation.json"])
def test_job_of_a_sweep_does_not_replace_a_finished_run_with_other_inputs(
    record: str, make: Make, folder: Path, tmp_path: Path
) -> None:
    (folder / "record.json").rename(folder / record)
    fit = {"mode": "fit", "data": {"dir": None}}
    check_job_folder(make(**fit, seed=1))  # is part of the folder's name
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.dir") as caught:
        check_job_folder(make(mode="fit", data={"dir": "rows"}, init=str(tmp_path / "other.ckpt")))
    assert [problem.key for problem in caught.value.problems] == ["init", "data.dir", "distill.teacher"]
    check_job_folder(make(mode="fit", data={"dir": "rows"}, paths={"run_dir": str(tmp_path / "new")}))
    (folder / record).unlink()
    check_job_folder(make(mode="fit", data={"dir": "rows"}))


def test_job_does_not_replace_a_run_of_another_task_of_the_same_name(make: Make, folder: Path) -> None:
    config = make(mode="fit", data={"dir": None})
    command = "retention -m task=keywords 'compare=[]' retention=random"
    (folder / "record.json").write_text(json.dumps({**RECORD, "command": command}))
    check_job_folder(config, overrides=["task=keywords", "retention=random"])
    check_job_folder(config, overrides=["retention=random"])
    with pytest.raises(ConfigError, match=r"is shorter, but .* run of task=keywords.* its own `name`") as caught:
        check_job_folder(config, overrides=["task=shorter", "retention=random"])
    assert [problem.key for problem in caught.value.problems] == ["task"]


def test_training_is_resumed_with_the_settings_that_it_was_started_with(make: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    last = run / "checkpoints" / "last.ckpt"
    trainer = {"max_epochs": 2, "precision": "32-true"}
    started = make(
        trainer=trainer, task={"epochs": 2, "lr": 1e-3, "data": {"num_workers": 0}}, optimizer={"lr": "${task.lr}"}
    )
    (run / "config.yaml").write_text(OmegaConf.to_yaml(started, resolve=True))
    stored = OmegaConf.to_container(OmegaConf.masked_copy(started, ["init", "distill", "seed", "task", "optimizer"]))
    config = {**stored, "retention": {"beta": 0.66, "layers": [0, 1]}}  # type: ignore[dict-item]
    torch.save({"state_dict": {}, "hyper_parameters": {"config": config}}, last)

    def resumed(**changes: Any) -> DictConfig:
        return OmegaConf.merge(started, {"ckpt": str(last)}, changes)  # type: ignore[return-value]

    check_resumed_training(resumed())
    check_resumed_training(
        resumed(trainer={"max_epochs": 5}, task={"epochs": 5, "data": {"num_workers": 2}}, record="r.jsonl")
    )
    with pytest.raises(ConfigError, match=r"trained with 0\.001, got 1e-05; .*old value.*hydra\.run\.dir") as caught:
        check_resumed_training(resumed(task={"lr": 1e-5}, trainer={"precision": "bf16-mixed"}))
    assert [problem.key for problem in caught.value.problems] == ["optimizer.lr", "task.lr", "trainer.precision"]

    rows, later = tmp_path / "train.csv", tmp_path / "test.csv"
    rows.write_text("text,label\n")
    write_data_files(run, [rows])
    later.write_text("text,label\n")
    check_resumed_training(resumed(), [rows, later])  # a file that the training did not read may be new
    rows.write_text("text,label\nnew,1\n")
    with pytest.raises(ConfigError, match=r"train\.csv has changed since the training of .*last\.ckpt was started"):
        check_resumed_training(resumed(), [rows])


def test_training_is_resumed_on_the_same_number_of_processes_only() -> None:
    for states, ranks in ([{}, {}], 2), ([{}], 1), ({"cpu": None}, 2), (None, 2):  # the last two: earlier versions
        check_ranks({"rng": states}, ranks, "run/last.ckpt")
    for states, ranks in ([{}, {}], 1), ([{}], 2):
        with pytest.raises(CheckpointError, match=rf"on {len(states)} process.*init=run/last\.ckpt"):
            check_ranks({"rng": states}, ranks, "run/last.ckpt")


@pytest.mark.parametrize(("sharded", "strategy"), [(True, "ddp"), (True, "auto"), (False, "fsdp"), (None, "fsdp")])
def test_sharded_trainings_stay_sharded_and_others_do_not_become_so(sharded: bool | None, strategy: str) -> None:
    content = {} if sharded is None else {"sharded": sharded}  # checkpoints of earlier versions do not say it
    check_strategy(content, "fsdp" if sharded else "ddp", "run/last.ckpt")
    with pytest.raises(CheckpointError, match=rf"resumed with trainer\.strategy={strategy}; .*init=run/last\.ckpt"):
        check_strategy(content, strategy, "run/last.ckpt")
