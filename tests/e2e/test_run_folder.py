"""What one run leaves behind, and that its checkpoint gives the same results again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from retention.errors import ConfigError
from retention.tasks.classification.keywords import KeywordData

ALL = {"kind", "command", "commit", "config", "seed", "versions", "machine", "wall_s", "date"}
QUALITY = {
    *("task", "data", "policy", "backbone", "rho", "keep_ratio", "flops_ratio", "metrics", "monitor"),
    *("throughput_tokens_per_s", "peak_mib"),
}


def test_the_run_folder(finished: Any) -> None:
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    assert {
        *("config.yaml", "record.json", "metrics.csv", "retention_profile.json", "kept_tokens.html"),
        "predictions.jsonl",
        *("checkpoints/last.ckpt", "encoder/config.json", "encoder/tokenizer.json"),
    } <= files
    assert [path.name for path in (finished.folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert not [name for name in files if name.endswith(".tmp")]


def test_the_configuration_is_complete_and_resolved(finished: Any) -> None:
    config = OmegaConf.load(finished.folder / "config.yaml")
    assert (config.retention.rho, config.task.data.train_size, config.trainer.max_epochs) == (0.25, 64, 1)
    assert "${" not in (finished.folder / "config.yaml").read_text()


def test_the_record_has_every_field(finished: Any) -> None:
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


def test_the_record_is_appended_where_asked(finished: Any) -> None:
    lines = finished.records.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(json.dumps(finished.record))]


def test_the_kept_share_is_the_asked_budget(finished: Any) -> None:
    data = KeywordData(max_length=160, val_size=1, batch_size=1, eval_batch_size=1, seed=0, test_size=32)
    lengths = [len(text.split()) + 2 for text in data.read(["test"])["test"]["text"]]  # with CLS and SEP
    # linear over three gates: 0.5, 0.25 and 0 of the tokens, never less than the two protected ones
    expected = [sum(max(int(share * length), 2) / length for length in lengths) / 32 for share in (0.5, 0.25, 0.0)]
    found = finished.record["keep_ratio"]
    assert [found["by_layer"][layer] for layer in "012"] == pytest.approx(expected, rel=1e-6)
    assert found["mean"] == pytest.approx(sum(expected) / 3, rel=1e-6)
    assert found["mean"] == pytest.approx(0.25, abs=0.01)


def test_the_metrics_were_logged(finished: Any) -> None:
    with (finished.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = {name: [float(row[name]) for row in rows if row.get(name)] for name in rows[0]}
    wanted = {"train/loss", "val/accuracy", "test/accuracy", "retention/keep_ratio", "retention/slack", "perf/peak_mib"}
    assert wanted <= {name for name, found in values.items() if found}
    assert len(values["train/loss"]) == 4, "one per step"
    assert values["test/accuracy"] == [finished.record["metrics"]["accuracy"]]
    assert values["retention/target_keep_ratio"][-1] == 0.25, "trained down to the full budget"


def test_the_predictions_are_those_that_were_scored(finished: Any) -> None:
    rows = [json.loads(line) for line in (finished.folder / "predictions.jsonl").read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(32))
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert right / 32 == pytest.approx(finished.record["metrics"]["accuracy"])
    assert sum(row["score"] for row in rows) == right


def test_the_picture_shows_the_examples(finished: Any) -> None:
    profile = json.loads((finished.folder / "retention_profile.json").read_text())
    indices = [example["index"] for example in profile["examples"]]
    assert len(set(indices)) == 8 and indices == sorted(indices)
    assert profile["gated_layers"] == [0, 1, 2] and profile["rho"] == 0.25
    page = (finished.folder / "kept_tokens.html").read_text()
    assert profile["examples"][0]["tokens"][5] in page


def profile_of(folder: Path) -> Any:
    return json.loads((folder / "retention_profile.json").read_text())


def test_testing_the_checkpoint_gives_the_same_results(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    [record] = start_bare(tmp_path, "mode=test", f"ckpt={finished.checkpoint}", "trainer.accelerator=cpu")
    for name in ("metrics", "keep_ratio", "flops_ratio", "policy", "backbone", "rho", "task", "seed"):
        assert record[name] == finished.record[name], name
    assert record["data"]["test"] == 32 and record["data"]["train"] == 64, "what it was trained on"
    assert profile_of(tmp_path) == profile_of(finished.folder), "token by token"
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_can_be_tested_at_another_budget(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    typed = ["mode=test", f"ckpt={finished.checkpoint}", "trainer.accelerator=cpu"]
    [record] = start_bare(tmp_path, *typed, "retention.rho=0.5", "data.test_size=8")
    assert (record["rho"], record["data"]["test"]) == (0.5, 8)
    assert record["keep_ratio"]["mean"] > 0.45


def test_what_the_checkpoint_decides_cannot_be_typed(finished: Any, start_bare: Any, tmp_path: Path) -> None:
    typed = ["mode=test", f"ckpt={finished.checkpoint}", "retention=dense", "task=sst2", "backbone.name=x"]
    with pytest.raises(ConfigError) as caught:
        start_bare(tmp_path, *typed)
    assert [problem.key for problem in caught.value.problems] == ["retention", "task", "backbone.name"]
    assert all("the checkpoint decides" in problem.message for problem in caught.value.problems)
