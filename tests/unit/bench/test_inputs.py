"""Check the batches: random ids of one length, and test data spread over the test set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from retention.bench.inputs import make_inputs, pad_batch, select_test_batches, synthetic_batches
from retention.bench.plan import BenchPlan
from retention.errors import ConfigError
from retention.tasks.classification.keywords import KeywordData


@pytest.fixture
def keywords() -> KeywordData:
    data = KeywordData(max_length=140, val_size=1, batch_size=4, eval_batch_size=4, seed=0, test_size=40)
    data.attach(data.build_tokenizer())
    data.setup("test")
    return data


def test_synthetic_sequences_have_the_full_length() -> None:
    batches = synthetic_batches(12, 3, 2, vocab_size=5000, seed=0)
    assert len(batches) == 2
    for batch in batches:
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 12)
        assert bool(batch["attention_mask"].all())
        assert bool(((batch["input_ids"] >= 1000) & (batch["input_ids"] < 5000)).all())
        assert batch["protected_mask"].sum(1).tolist() == [2, 2, 2]
        assert bool(batch["protected_mask"][:, [0, -1]].all())
    assert not torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])


def test_synthetic_sequences_depend_on_the_seed() -> None:
    first, again, other = (synthetic_batches(8, 2, 1, 5000, seed)[0]["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_test_batches_are_evenly_spaced(keywords: KeywordData) -> None:
    loader = [batch["input_ids"] for batch in keywords.test_dataloader()]
    selected = [batch["input_ids"] for batch in select_test_batches(keywords, 2)]
    assert len(loader) == 10
    assert torch.equal(selected[0], loader[2]) and torch.equal(selected[1], loader[7])


def test_all_test_batches_can_be_selected(keywords: KeywordData) -> None:
    lengths = [batch["input_ids"].shape[1] for batch in select_test_batches(keywords, 10)]
    assert lengths == [batch["input_ids"].shape[1] for batch in keywords.test_dataloader()]
    assert lengths == sorted(lengths, reverse=True)


def test_too_few_test_batches_are_an_error(keywords: KeywordData) -> None:
    with pytest.raises(ConfigError, match="got 11, but the test data of keywords make 10"):
        select_test_batches(keywords, 11)


def test_padding_adds_no_real_tokens() -> None:
    [batch] = synthetic_batches(6, 2, 1, 5000, 0)
    padded = pad_batch(batch, 9, pad_token_id=7)
    assert padded["input_ids"][:, 6:].tolist() == [[7] * 3] * 2
    assert padded["attention_mask"].sum(1).tolist() == [6, 6]
    assert padded["protected_mask"].dtype == torch.bool and padded["protected_mask"].sum().item() == 4
    assert all(torch.equal(padded[key][:, :6], batch[key]) for key in batch)


def test_task_gives_bucketed_and_padded_batches_of_the_same_sequences(plan: Callable[..., BenchPlan]) -> None:
    made = make_inputs(plan(task="keywords", sets=("data.test_size=30",)), length=120, batch_size=5)
    assert made.padded is not None
    assert len(made.bucketed) == len(made.padded) == 2
    assert max(batch["input_ids"].shape[1] for batch in made.bucketed) <= 120
    for bucketed, padded in zip(made.bucketed, made.padded, strict=True):
        assert padded["input_ids"].shape == (5, 120)
        assert torch.equal(padded["attention_mask"].sum(1), bucketed["attention_mask"].sum(1))
    real = sum(int(batch["attention_mask"].sum()) for batch in made.bucketed)
    assert made.description["source"] == "keywords (generated)"
    assert (made.description["rows"], made.description["mean_length"]) == (10, real / 10)
    assert 0.0 <= made.description["padding"] < 0.2


def test_random_weights_need_a_tokenizer_for_task_data(plan: Callable[..., BenchPlan]) -> None:
    with pytest.raises(ConfigError, match="no tokenizer for real data"):
        make_inputs(plan(task="sst2", data="nowhere"), length=16, batch_size=2)
