from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from retention.errors import ConfigError
from retention.tasks.classification.keyword_words import FILLER_WORDS, KEY_WORDS
from retention.tasks.classification.keywords import KeywordData, keyword_document

KEYS = {word: name for name, words in KEY_WORDS.items() for word in words}


def make(**overrides: Any) -> KeywordData:
    settings = {"train_size": 30, "val_size": 10, "test_size": 12, "seed": 7, **overrides}
    return KeywordData(max_length=130, batch_size=8, eval_batch_size=8, **settings)


def texts(data: KeywordData) -> dict[str, list[str]]:
    return {split: list(rows["text"]) for split, rows in data.read(("train", "val", "test")).items()}


def test_key_words_and_fillers_are_distinct() -> None:
    assert len(set(FILLER_WORDS)) == len(FILLER_WORDS) == 400
    assert len(KEYS) == 24 and not set(KEYS) & set(FILLER_WORDS)
    assert all(word.isalpha() and word.islower() for word in (*KEYS, *FILLER_WORDS))


@given(st.integers())
def test_three_of_five_key_words_name_the_class(seed: int) -> None:
    text, label = keyword_document(random.Random(seed))
    words = text.split()
    assert 96 <= len(words) <= 128
    keys = [word for word in words if word in KEYS]
    assert len(set(keys)) == len(keys) == 5
    classes = [KEYS[word] for word in keys]
    name = list(KEY_WORDS)[label]
    assert classes.count(name) == 3
    assert len(set(classes)) == 3, "the two others are of two different classes"
    assert set(words) - set(KEYS) <= set(FILLER_WORDS)


def test_classes_are_balanced_and_keys_are_spread_over_the_text() -> None:
    rng = random.Random(0)
    documents = [keyword_document(rng) for _ in range(2000)]
    counts = [sum(label == expected for _, label in documents) for expected in range(4)]
    assert min(counts) > 430 and max(counts) < 570
    positions = [i / len(text.split()) for text, _ in documents for i, word in enumerate(text.split()) if word in KEYS]
    assert 0.48 < sum(positions) / len(positions) < 0.52 and min(positions) == 0.0 and max(positions) > 0.98


def test_seed_changes_only_the_training_documents() -> None:
    first, again, other = texts(make()), texts(make()), texts(make(seed=8))
    assert first == again
    assert first["train"] != other["train"]
    assert (first["val"], first["test"]) == (other["val"], other["test"])
    every = [text for split in first.values() for text in split]
    assert len(set(every)) == len(every) == 52


def test_default_sizes() -> None:
    data = make(train_size=None, test_size=None)
    assert {split: len(rows) for split, rows in data.read(("train", "val", "test")).items()} == {
        "train": 4000,
        "val": 10,
        "test": 1000,
    }


def test_task_tokenizer_has_every_word(tokenizer: PreTrainedTokenizerFast) -> None:
    data = make()
    data.attach(tokenizer)
    data.setup("test")
    assert data.num_labels == 4 and data.label_names == ("animals", "tools", "foods", "cities")
    assert data.describe()["truncated"]["test"] == 0
    for batch in data.test_dataloader():
        assert not (batch["input_ids"] == tokenizer.unk_token_id).any()
        for row, index in zip(batch["input_ids"], batch["index"].tolist(), strict=True):
            assert tokenizer.decode(row, skip_special_tokens=True) == data.example(index)
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) == 428


@pytest.mark.parametrize(
    ("key", "value"), [("seed", "x"), ("dir", "/some/folder"), ("train_size", 0), ("val_size", None)]
)
def test_invalid_setting_raises_with_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{key: value})
    assert [problem.key for problem in raised.value.problems] == [key]


def test_documents_are_recorded_as_generated(tokenizer: PreTrainedTokenizerFast) -> None:
    data = make()
    data.attach(tokenizer)
    data.setup("test")
    assert data.describe()["provenance"] == "generated"
