"""Tests of pairs of texts for cross-encoders: repetitions, token types, protected tokens."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from retention.errors import DataError
from retention.tasks.classifier_distillation.data import ClassifierTexts

ROWS = [{"query": f"horse {i}", "passage": f"bread and horse {i}"} for i in range(12)]


def pairs(folder: Path, tokenizer: Any, rows: list[dict[str, str]], **overrides: Any) -> ClassifierTexts:
    """Return the data module of pairs with its tokenizer; three rows are held out twice."""
    file = folder / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings: dict[str, Any] = {"name": "texts", "source_note": "-", "text_column": "query", "pair_column": "passage"}
    sizes: dict[str, Any] = {"max_length": 16, "train_size": None, "val_size": 3, "test_size": None, "seed": 0}
    data = ClassifierTexts(texts=str(file), batch_size=4, eval_batch_size=4, **{**settings, **sizes, **overrides})
    data.attach(tokenizer)
    return data


def test_pairs_have_the_token_types_of_the_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    data = pairs(tmp_path, tokenizer, ROWS)
    rows = data.token_rows(["horse", "horse and bread"], ["bread", "bread"])
    expected = tokenizer(["horse", "horse and bread"], ["bread", "bread"])
    assert rows["input_ids"] == expected["input_ids"]
    assert rows["token_type_ids"] == expected["token_type_ids"]
    batch = data.collator()([{key: values[row] for key, values in {**rows, "index": [0, 1]}.items()} for row in (0, 1)])
    assert batch["token_type_ids"].shape == batch["input_ids"].shape
    assert batch["token_type_ids"][0, len(expected["input_ids"][0]) :].eq(0).all()
    assert "token_type_ids" not in data.token_rows(["horse"])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in data.token_rows(["horse"], ["bread"])


def test_first_text_is_protected_on_request(tmp_path: Path, tokenizer: Any) -> None:
    texts = ["horse and"], ["bread"]
    free = pairs(tmp_path, tokenizer, ROWS).token_rows(*texts)["protected_mask"][0]
    kept = pairs(tmp_path, tokenizer, ROWS, protect_first_text=True).token_rows(*texts)["protected_mask"][0]
    assert free == [True, False, False, True, False, True]
    assert kept == [True, True, True, True, False, True]


def test_repeated_pairs_count_once(tmp_path: Path, tokenizer: Any) -> None:
    data = pairs(tmp_path, tokenizer, [*ROWS, ROWS[0], {**ROWS[0], "passage": "another"}])
    assert len(data.load("texts")) == 13
    assert data.remarks() == ["1 repeated texts left out"]


def test_missing_column_is_named(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="answer"):
        pairs(tmp_path, tokenizer, ROWS, pair_column="answer").load("texts")
