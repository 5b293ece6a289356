"""A task from outside the package, one folder and one yaml (examples/custom_task), through the real command line."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_task"
FILLERS = (
    "the",
    "a",
    "we",
    "saw",
    "met",
    "left",
    "in",
    "near",
    "with",
    "from",
    "after",
    "they",
    "lol",
    "omg",
    "rt",
    "so",
)
ENTITIES = {  # as in WNUT-17: emerging names, of several words or with marks inside
    "person": ["Kylie O'Brien", "Zed Lopez", "MC Ferro", "Lil Nova", "Uma"],
    "place": ["New-York", "Port Aster", "Lake Vela", "Saint-Denis", "Kyra"],
}


def tagged_sentence(rng: random.Random) -> dict[str, list[str]]:
    """Generate a sentence of filler words with one or two entities."""
    words, tags = [], []
    for kind in rng.sample(list(ENTITIES), rng.choice([1, 2])):
        fillers = rng.choices(FILLERS, k=rng.randint(1, 5))
        entity = rng.choice(ENTITIES[kind]).split()
        words += [*fillers, *entity]
        tags += ["O"] * len(fillers) + [f"B-{kind}", *[f"I-{kind}"] * (len(entity) - 1)]
    return {"words": words, "tags": tags}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Copy of the example: the package ``entity_tagging`` and ``conf/task/entities.yaml``."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "task"))


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Folder with generated train.jsonl and test.jsonl."""
    folder = tmp_path / "sentences"
    folder.mkdir()
    rng = random.Random(3)
    for split, count in (("train", 480), ("test", 60)):
        rows = [json.dumps(tagged_sentence(rng)) + "\n" for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    return folder


@pytest.mark.slow
def test_new_task_needs_one_folder_and_one_yaml(
    command_line: Callable[..., Any], task: Path, sentences: Path, tmp_path: Path
) -> None:
    def call(*words: str, **options: Any) -> dict[str, Any]:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        settings = (f"hydra.run.dir={folder}", "trainer.accelerator=cpu", "++callbacks.progress.log_refresh_rate=0")
        done = command_line(*words, *settings, path=task, small=False, **options)
        assert done.returncode == 0, done.stderr
        record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return record

    typed = ("task=entities", f"data.dir={sentences}", "data.provenance=generated", "retention=adaptive")
    record = call(*typed, "dropped=forward", flags=("--config-dir", str(task / "conf")))
    assert record["task"] == "entities" and record["data"]["provenance"] == "generated"
    assert record["keep_ratio"]["mean"] == pytest.approx(0.5, abs=0.1)
    rows = [json.loads(line) for line in (tmp_path / "run0" / "predictions.jsonl").read_text().splitlines()]
    expected = [json.loads(line)["tags"] for line in (sentences / "test.jsonl").read_text().splitlines()]
    assert [row["label"] for row in sorted(rows, key=lambda row: row["index"])] == expected, "every word is tagged"
    assert min(record["keep_ratio"]["by_layer"].values()) < 0.4, "most tokens are removed before the last layer"
    assert record["metrics"]["entity_f1"] > 0.9, "and their tags are right nevertheless"

    classes = (
        "task.data._target_=entity_tagging.data.EntityData",
        "task.head._target_=entity_tagging.head.TaggingHead",
    )
    tested = call("mode=test", f"ckpt={tmp_path}/run0/checkpoints/last.ckpt", *classes)
    assert tested["metrics"] == record["metrics"]


@pytest.fixture
def metrics() -> ModuleType:
    """Module with the metric of the example."""
    spec = importlib.util.spec_from_file_location("entity_metrics", EXAMPLE / "entity_tagging" / "metrics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_entity_f1_follows_seqeval(metrics: ModuleType) -> None:
    tags = ["B-person", "I-person", "O", "I-place", "B-place", "I-person"]
    assert metrics.entities(tags) == {("person", 0, 2), ("place", 3, 4), ("place", 4, 5), ("person", 5, 6)}
    # two of three predicted entities are right, two of two labelled ones are predicted
    labels = [["B-person", "I-person", "O"], ["O", "B-place"]]
    predictions = [["B-person", "I-person", "B-place"], ["O", "I-place"]]
    assert metrics.entity_f1(predictions, labels) == pytest.approx(0.8)
    assert metrics.entity_f1([["O"]], [["O"]]) == 0.0
