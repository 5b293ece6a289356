"""Fixtures of the task tests: a separate cache folder, the tokenizer of the keyword task, small files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from retention.tasks.classification.data import TextClassificationData
from retention.tasks.classification.keywords import KeywordData

MakeData = Callable[..., TextClassificationData]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache folder of ``datasets`` for each test."""
    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Word tokenizer of the keyword task."""
    return KeywordData.build_tokenizer()


@pytest.fixture
def make_data() -> MakeData:
    """Build a small two-class data module; keyword arguments override its settings."""

    def make(**overrides: Any) -> TextClassificationData:
        settings: dict[str, Any] = {
            "name": "reviews",
            "source_note": "made-up reviews",
            "hub": None,
            "dir": "missing",
            "text_column": "text",
            "label_column": "label",
            "label_names": ["bad", "good"],
            "max_length": 16,
            "splits": {"train": "train", "val": None, "test": "test"},
            "train_size": None,
            "val_size": 3,
            "test_size": None,
            "batch_size": 4,
            "eval_batch_size": 4,
            "seed": 0,
        }
        return TextClassificationData(**{**settings, **overrides})

    return make


@pytest.fixture
def write_rows() -> Callable[..., Path]:
    """Write (text, label) rows as <folder>/<split>.parquet."""

    def write(folder: Path, split: str, count: int, text: str = "horse number") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        texts = [f"{text} {'and so on ' * (i % 4)}{i}" for i in range(count)]
        path = folder / f"{split}.parquet"
        pq.write_table(pa.table({"text": texts, "label": [i % 2 for i in range(count)]}), path)
        return path

    return write


@pytest.fixture
def make_articles(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Build a data module of a class, with a test file of (article, abstract) pairs."""

    def make(data_class: Callable[..., Any], articles: Sequence[tuple[str, str]], **overrides: Any) -> Any:
        lines = [json.dumps({"article": article, "abstract": abstract}) for article, abstract in articles]
        (tmp_path / "test.jsonl").write_text("\n".join(lines))
        settings: dict[str, Any] = {
            "name": "articles",
            "source_note": "made-up articles",
            "hub": None,
            "dir": str(tmp_path),
            "article_column": "article",
            "abstract_column": "abstract",
            "max_length": 64,
            "splits": {"train": "train", "val": None, "test": "test"},
            "train_size": None,
            "val_size": 1,
            "test_size": None,
            "batch_size": 4,
            "eval_batch_size": 4,
            "seed": 0,
        }
        data = data_class(**{**settings, **overrides})
        data.attach(tokenizer)
        return data

    return make
