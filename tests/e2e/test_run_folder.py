"""Test the files of a run folder, and that its checkpoint reproduces the results."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from retention.errors import CheckpointError, ConfigError, DataError, TrainingError
from retention.experiment import config as experiment_config
from retention.experiment.hydra_setup import config_dir
from retention.tasks.classification.keywords import KeywordData

ALL = {"kind", "command", "commit", "config", "seed", "versions", "machine", "wall_s", "date"}
QUALITY = {
    *("task", "data", "policy", "backbone", "rho", "keep_ratio", "flops_ratio", "metrics", "monitor"),
    *("throughput_tokens_per_s", "peak_mib", "training"),
}


def test_run_folder_has_all_files(finished: Any) -> None:
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    assert {
        *("config.yaml", "record.json", "metrics.csv", "retention_profile.json", "kept_tokens.html", "README.md"),
        "predictions.jsonl",
        *("checkpoints/last.ckpt", "encoder/config.json", "encoder/tokenizer.json"),
    } <= files
    assert [path.name for path in (finished.folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not [name for name in files if name.endswith(".tmp")]


def test_the_output_ends_with_the_page_of_kept_tokens(
    finished: Any, start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(finished.folder)  # is finished, so it prints its table only
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    page = Path(last.rpartition(": ")[2])
    assert page.is_absolute() and page.samefile(finished.folder / "kept_tokens.html")
    start(tmp_path, "retention=dense", "retention.rho=1.0", "data.train_size=16", "data.test_size=8")
    assert "kept_tokens.html" not in capsys.readouterr().out, "a dense run has no such page"


def test_configuration_is_complete_and_resolved(finished: Any) -> None:
    config = OmegaConf.load(finished.folder / "config.yaml")
    assert (config.retention.rho, config.task.data.train_size, config.trainer.max_epochs) == (0.25, 64, 1)
    assert "${" not in (finished.folder / "config.yaml").read_text()


def test_a_command_that_fails_on_its_data_leaves_a_finished_run_alone(
    finished: Any, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise DataError("train.csv:3: 'label' must be a whole number")

    shutil.copytree(finished.folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    monkeypatch.setattr(KeywordData, "setup", fail)
    with pytest.raises(DataError, match="label"):
        start(tmp_path / "run", "task.lr=1e-5")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_record_has_every_field(finished: Any) -> None:
    record = json.loads((finished.folder / "record.json").read_text())
    assert record == json.loads(json.dumps(finished.record))
    assert set(record) >= ALL | QUALITY
    assert (record["kind"], record["task"], record["policy"], record["backbone"]) == (
        *("quality", "keywords"),
        *("adaptive", "tiny"),
    )
    assert (record["rho"], record["seed"], record["monitor"]) == (0.25, 0, "accuracy")
    assert (record["data"]["train"], record["data"]["test"]) == (64, 32)
    assert 0.0 <= record["metrics"]["accuracy"] <= 1.0
    assert 0.0 < record["flops_ratio"] < 1.0
    assert record["peak_mib"] > 0 and record["wall_s"] > 0
    assert str(finished.folder) not in json.dumps(record), "no paths of this machine"


def test_record_is_appended_to_the_requested_file(finished: Any) -> None:
    lines = finished.records.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(json.dumps(finished.record))]


def test_achieved_keep_ratio_is_the_target(finished: Any) -> None:
    data = KeywordData(max_length=160, val_size=1, batch_size=1, eval_batch_size=1, seed=0, test_size=32)
    lengths = [len(text.split()) + 2 for text in data.read(["test"])["test"]["text"]]  # with CLS and SEP
    # linear over three gates: 0.5, 0.25 and 0 of the tokens, never less than the two protected ones
    expected = [sum(max(int(ratio * length), 2) / length for length in lengths) / 32 for ratio in (0.5, 0.25, 0.0)]
    achieved = finished.record["keep_ratio"]
    assert [achieved["by_layer"][layer] for layer in "012"] == pytest.approx(expected, rel=1e-6)
    assert achieved["mean"] == pytest.approx(sum(expected) / 3, rel=1e-6)
    assert achieved["mean"] == pytest.approx(0.25, abs=0.01)


def test_metrics_are_logged(finished: Any) -> None:
    with (finished.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = {name: [float(row[name]) for row in rows if row.get(name)] for name in rows[0]}
    required = {
        "train/loss",
        "val/accuracy",
        "test/accuracy",
        "retention/keep_ratio",
        "retention/slack",
        "perf/peak_mib",
    }
    assert required <= {name for name, numbers in values.items() if numbers}
    assert len(values["train/loss"]) == 4, "one per step"
    assert values["test/accuracy"] == [finished.record["metrics"]["accuracy"]]
    assert values["retention/target_keep_ratio"][-1] == 0.25, "trained down to the full budget"


def test_predictions_are_those_of_the_metrics(finished: Any) -> None:
    rows = [json.loads(line) for line in (finished.folder / "predictions.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(32))
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert right / 32 == pytest.approx(finished.record["metrics"]["accuracy"])
    assert sum(row["score"] for row in rows) == right


def test_heatmap_shows_the_examples(finished: Any) -> None:
    profile = json.loads((finished.folder / "retention_profile.json").read_text())
    indices = [example["index"] for example in profile["examples"]]
    assert len(set(indices)) == 8 and indices == sorted(indices)
    assert profile["gated_layers"] == [0, 1, 2] and profile["rho"] == 0.25
    page = (finished.folder / "kept_tokens.html").read_text()
    assert profile["examples"][0]["tokens"][5] in page


def profile_of(folder: Path) -> Any:
    return json.loads((folder / "retention_profile.json").read_text())


def test_testing_the_checkpoint_reproduces_the_results(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    [record] = start_bare(tmp_path, "mode=test", f"ckpt={finished.checkpoint}", "trainer.accelerator=cpu")
    for name in ("metrics", "keep_ratio", "flops_ratio", "policy", "backbone", "rho", "task", "seed"):
        assert record[name] == finished.record[name], name
    assert record["data"] == finished.record["data"], "with the rows that it was trained with"
    assert profile_of(tmp_path) == profile_of(finished.folder), "token by token"
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoint_can_be_tested_at_another_budget(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    typed = ["mode=test", f"ckpt={finished.checkpoint}", "trainer.accelerator=cpu"]
    [record] = start_bare(tmp_path, *typed, "retention.rho=0.5", "data.test_size=8")
    assert (record["rho"], record["data"]["test"]) == (0.5, 8)
    assert record["keep_ratio"]["mean"] > 0.45


def test_other_local_files_are_not_described_as_those_of_the_training(finished: Any, tmp_path: Path) -> None:
    content = torch.load(finished.checkpoint, weights_only=True)
    content["hyper_parameters"]["config"]["data"] |= {"dir": "a", "source": "reviews", "provenance": "benchmark"}
    torch.save(content, tmp_path / "last.ckpt")
    typed = ["mode=test", f"ckpt={tmp_path}/last.ckpt"]

    def described(*others: str) -> tuple[Any, ...]:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            overrides = [f"paths.run_dir={tmp_path}", *typed, *others]
            data = experiment_config.tested_config(compose("config", overrides=overrides), overrides).data
        return data.dir, data.source, data.provenance

    assert described() == ("a", "reviews", "benchmark")
    assert described("data.dir=b") == ("b", None, None)
    assert described("data.dir=b", "data.source=papers") == ("b", "papers", None)


def test_settings_fixed_by_the_checkpoint_cannot_be_overridden(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    typed = ["mode=test", f"ckpt={finished.checkpoint}", "retention=dense", "task=sst2", "backbone.name=x"]
    with pytest.raises(ConfigError) as caught:
        start_bare(tmp_path, *typed)
    assert [problem.key for problem in caught.value.problems] == ["retention", "task", "backbone.name"]
    assert all("the checkpoint determines it" in problem.message for problem in caught.value.problems)


@pytest.fixture
def tested(finished: Any, tmp_path: Path) -> Any:
    """Return a function that checks what was typed with ``mode=test``, for a checkpoint with other settings."""

    def check(*typed: str, **changes: Any) -> Any:
        content = torch.load(finished.checkpoint, weights_only=True)
        stored = OmegaConf.create(content["hyper_parameters"]["config"])
        for key, value in changes.items():
            OmegaConf.update(stored, key.replace("__", "."), value, force_add=True)
        content["hyper_parameters"]["config"] = OmegaConf.to_container(stored, resolve=False)
        torch.save(content, tmp_path / "last.ckpt")
        overrides = [f"paths.run_dir={tmp_path}", "mode=test", f"ckpt={tmp_path}/last.ckpt", *typed]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return experiment_config.tested_config(compose("config", overrides=overrides), overrides)

    return check


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("optimizer.lr=5", "leave it out with mode=test"),
        ("phases.pruning_start=0.1", "leave it out with mode=test"),
        ("budgets.sampled=1", "leave it out with mode=test"),
        ("distill.weight=0.5", "leave it out with mode=test"),
        ("dual.count=nonzero", "leave it out with mode=test"),
        ("task.lr=5", "leave it out with mode=test"),
        ("task.epochs=9", "leave it out with mode=test"),
        ("data.train_size=4000", "leave it out with mode=test"),
        ("task.data.train_size=4000", "leave it out with mode=test"),
        ("task.data.batch_size=2", "leave it out with mode=test"),
        ("seed=7", "leave it out with mode=test"),
        ("data.seed=7", "leave it out with mode=test"),
        ("task.data.seed=7", "leave it out with mode=test"),
        ("+task.data.folds=3", "leave it out with mode=test"),
        ("+task.data.folds=null", "leave it out with mode=test"),
        ("+task.data.splits.test=train", r"pass data\.dir="),
        ("compare=[dense]", "or test the checkpoint of each baseline"),
    ],
)
def test_settings_of_the_training_cannot_be_changed_by_a_test(tested: Any, typed: str, remedy: str) -> None:
    key = typed.lstrip("+").partition("=")[0]
    with pytest.raises(ConfigError, match=remedy) as caught:
        tested(typed)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_settings_of_the_evaluation_can_be_changed_by_a_test(tested: Any) -> None:
    typed = ("retention.rho=0.5", "data.test_size=8", "task.data.eval_batch_size=2", "retention.layers=[0,1]")
    config = tested(*typed, "task.rho=0.4", "compare=[]", "trainer.max_epochs=3", "+task.data.no_answer_threshold=0.4")
    assert (config.retention.rho, config.data.test_size, config.task.data.eval_batch_size) == (0.5, 8, 2)
    assert config.seed == 0 and config.task.data.no_answer_threshold == 0.4
    random = tested("+retention.seed=7", retention__seed=0)
    assert (random.seed, random.retention.seed) == (0, 7), "the record has the seed of the training"
    with pytest.raises(ConfigError, match=r"pass retention\.seed"):
        tested("seed=7", retention__seed=0)


def test_settings_of_the_training_can_be_repeated(tested: Any) -> None:
    stored = {"task__lr": 0.003, "data__train_size": 24}
    assert tested("seed=0", "task.lr=0.003", "data.train_size=24", **stored).seed == 0
    with pytest.raises(ConfigError) as caught:
        tested("seed=0", "task.lr=0.004", "data.train_size=24", **stored)
    assert [problem.key for problem in caught.value.problems] == ["task.lr"]


def test_teacher_of_a_task_with_labels_is_refused(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill\.teacher: only a task without labels"):
        start_bare(tmp_path, "mode=test", f"ckpt={finished.checkpoint}", f"distill.teacher={finished.checkpoint}")


def test_other_splits_need_other_files(tested: Any, tmp_path: Path) -> None:
    splits = {"train": "train", "val": None, "test": "test"}
    changes = {"data__dir": str(tmp_path / "rows"), "task__data__splits": splits}
    typed = "+task.data.splits.test=validation"
    assert tested(typed, f"data.dir={tmp_path}/others", **changes).task.data.splits.test == "validation"
    for folder in ((), (f"data.dir={tmp_path}/others/../rows",)):
        with pytest.raises(ConfigError, match=r"task\.data\.splits\.test: with other splits, rows would be scored"):
            tested(typed, *folder, **changes)


def test_more_held_out_texts_need_another_file(tested: Any, tmp_path: Path) -> None:
    changes = {"texts": "texts.txt", "task__data__texts": "${texts}", "task__data__test_size": 20}
    assert tested("data.test_size=20", **changes).data.test_size == 20
    assert tested("data.test_size=30", "task.data.val_size=9", "texts=other.txt", **changes).data.test_size == 30
    with pytest.raises(ConfigError, match=r"data\.test_size: test rows are held out of the texts.*texts=<other file>"):
        tested("data.test_size=30", **changes)


def test_model_card_describes_the_run(finished: Any) -> None:
    card = (finished.folder / "README.md").read_text()
    for text in ("# adaptive on keywords", "keep ratio after layer 2", "## Data", "keywords (generated)", "license"):
        assert text in card
    assert f"| accuracy | {finished.record['metrics']['accuracy']:.4g} |" in card
    assert finished.record["command"] in card and str(finished.folder) not in card
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(code.replace("<this folder>", str(finished.folder)), {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=1e30", "trainer.gradient_clip_val=null"], "the training diverged"),
        (["optimizer.policy_lr=1e25", "trainer.gradient_clip_val=null"], "is not finite|is nan|NaN"),
    ],
)
def test_diverged_training_ends_with_an_error_and_no_record(
    overrides: list[str], message: str, start: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        start(tmp_path, *overrides)
    assert not (tmp_path / "record.json").exists() and not (tmp_path / "checkpoints" / "last.ckpt").exists()


def with_nan(weights: dict[str, torch.Tensor]) -> None:
    weights["model.head.output.1.bias"][0] = float("nan")


def with_overflow(weights: dict[str, torch.Tensor]) -> None:
    """Leave every weight finite, but not their products."""
    weights["model.head.output.1.weight"].fill_(3e38)
    for name in weights:
        if name.endswith("LayerNorm.weight"):
            weights[name].mul_(1e6)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (with_nan, CheckpointError, r"head\.output\.1\.bias has values that are not finite"),
        (with_overflow, TrainingError, "the model's output has values that are NaN or infinite"),
    ],
)
def test_outputs_that_are_nan_end_a_test_with_an_error(
    damage: Any, error: type[Exception], message: str, finished: Any, start_bare: Any, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder / "encoder", tmp_path / "run" / "encoder")
    content = torch.load(finished.checkpoint, weights_only=True)
    damage(content["state_dict"])
    (tmp_path / "run" / "checkpoints").mkdir()
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.raises(error, match=message):
        start_bare(
            tmp_path / "test", "mode=test", f"ckpt={tmp_path}/run/checkpoints/last.ckpt", "trainer.accelerator=cpu"
        )
    assert not (tmp_path / "test" / "record.json").exists()
