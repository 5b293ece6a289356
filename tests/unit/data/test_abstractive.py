"""Articles and what is to be written about them, from files to batches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from retention.errors import ConfigError, DataError
from retention.tasks.classification.keyword_words import FILLER_WORDS
from retention.tasks.classification.keywords import KeywordData
from retention.tasks.summarization.abstractive_data import AbstractiveData

MakeData = Callable[..., AbstractiveData]
ARTICLES = [
    ("the horse of the king.\nso it is.", "the horse is here. it is a horse."),
    ("sky", "the sky of the horse and the river of the road and the star of the king of the ship"),  # longer than it
    ("control \x00 and \u2028 \U0001f40e", "\U0001f40e"),
]


@pytest.fixture
def make(make_articles: Callable[..., AbstractiveData]) -> MakeData:
    def build(*articles: tuple[str, str], **overrides: Any) -> AbstractiveData:
        return make_articles(AbstractiveData, articles or ARTICLES, **{"max_summary_length": 12, **overrides})

    return build


def test_batches(make: MakeData, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture) -> None:
    data = make()
    with caplog.at_level(logging.WARNING, logger="retention"):
        data.setup("test")
    [batch] = list(data.test_dataloader())
    place = {index: row for row, index in enumerate(batch["index"].tolist())}
    labels = batch["labels"].tolist()
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    first = [token for token in labels[place[0]] if token >= 0]
    assert first == tokenizer("the horse is here. it is a horse.")["input_ids"] and (first[0], first[-1]) == (
        start,
        end,
    )
    assert labels[place[0]][len(first) :] == [-100] * (12 - len(first)), "padding is no target"
    cut = labels[place[1]]
    assert len(cut) == 12 and cut[-1] == end, "a summary that is cut ends as others do"
    assert (
        batch["abstract"][place[0]] == "the horse is here.\nit is a horse."
        and batch["abstract"][place[1]] == ARTICLES[1][1]
    )
    ends = batch["attention_mask"].sum(1) - 1
    assert batch["protected_mask"].sum(1).tolist() == [2] * 3 and batch["protected_mask"][:, 0].all()
    assert batch["protected_mask"].gather(1, ends.unsqueeze(1)).all()
    message = "articles test: 1 of 3 abstracts are longer than max_summary_length=12 tokens and were cut"
    assert caplog.messages == [message]
    assert data.describe()["summaries_cut"] == {"train": None, "val": None, "test": 1}


def test_texts_of_tokens(make: MakeData) -> None:
    data, tokenizer = make(), KeywordData.build_tokenizer()
    tokenizer.add_tokens(["."])
    data.attach(tokenizer)
    first, second = " ".join(FILLER_WORDS[:4]), " ".join(FILLER_WORDS[4:9])
    written = tokenizer(f"{first} . {second} .")["input_ids"]
    assert data.spell([[*written, tokenizer.pad_token_id], []]) == [f"{first} .\n{second} .", ""]
    assert set(data.head()) == {"spell", "max_summary_length"}


def test_the_summary_length_is_part_of_the_cache_key(make: MakeData) -> None:
    for length in (12, 6):
        data = make(max_summary_length=length)
        data.setup("test")
        assert max(map(len, data._split("test").rows["summary_ids"])) == length


def test_problems(make: MakeData) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: 'abstract' is blank"):
        make(("an article", "\n")).setup("test")
    with pytest.raises(ConfigError) as raised:
        make(article_column=None, max_summary_length=1, max_length=0)
    assert {problem.key for problem in raised.value.problems} == {"article_column", "max_summary_length", "max_length"}
