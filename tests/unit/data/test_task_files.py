"""Each task file must fit the constructor of the data module it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerFast

from retention.data.base import RetentionData
from retention.tasks.classification.data import TextClassificationData
from retention.tasks.classification.keywords import KeywordData

TASKS = Path(__file__).parents[3] / "conf" / "task"


def build(name: str, **given: Any) -> RetentionData:
    root = {
        "data": {
            "dir": None,
            "source": None,
            "provenance": None,
            "train_size": None,
            "test_size": None,
            "seed": 3,
            **given,
        }
    }
    config = OmegaConf.create({**root, "task": OmegaConf.load(TASKS / f"{name}.yaml")})
    data = hydra.utils.instantiate(config.task.data)
    assert isinstance(data, RetentionData)
    assert config.task.name == data.settings.name == name
    return data


@pytest.mark.parametrize(("name", "test_split", "max_length"), [("sst2", "validation", 64), ("imdb", "test", 512)])
def test_file_tasks_read_local_files(
    name: str, test_split: str, max_length: int, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / f"{test_split}.jsonl").write_text('{"sentence": "fine", "text": "fine", "label": 1}\n' * 5)
    data = build(name, dir=str(tmp_path), test_size=4)
    assert isinstance(data, TextClassificationData) and data.label_names == ("negative", "positive")
    data.attach(tokenizer)
    data.setup("test")
    assert data.describe()["test"] == 4 and data.describe()["max_length"] == max_length
    assert build(name).settings.seed == 3, "without a folder the hub is used"


DECODER_TASKS = ("language_modeling", "recall")  # texts of a file, and generated contexts


@pytest.mark.parametrize(
    "name",
    sorted(
        {path.stem for path in TASKS.glob("*.yaml")}
        - {"keywords", "embedding", "classifier", "covid_qa", *DECODER_TASKS}
    ),
)
def test_local_files_are_not_described_as_the_benchmark(name: str, tmp_path: Path) -> None:
    assert build(name).source_name(), "the hub's rows have a name"
    assert build(name).provenance() == "benchmark"
    local = {"dir": str(tmp_path)}
    assert build(name, **local).source_name() == f"local files: {tmp_path.name}"
    assert build(name, **local, source="a stand-in").source_name() == "a stand-in"
    assert build(name, **local, source="a stand-in").source_name() != build(name).source_name()
    assert build(name, **local).provenance() == "local"
    assert build(name, **local, provenance="stand_in").provenance() == "stand_in"


def test_keywords_task_is_generated(tokenizer: PreTrainedTokenizerFast) -> None:
    data = build("keywords", train_size=16, test_size=4)
    assert isinstance(data, KeywordData)
    data.attach(tokenizer)
    data.setup("test")
    assert data.describe()["test"] == 4
