"""Fixtures of the data tests: a separate cache folder and the tokenizer of the keyword task."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from retention.tasks.classification.keywords import KeywordData


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
