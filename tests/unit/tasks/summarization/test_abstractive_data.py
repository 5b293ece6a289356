"""Articles and their abstracts as decoder targets, from files to batches."""

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


def test_batches_have_the_documented_tensors(
    make: MakeData, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    data = make()
    with caplog.at_level(logging.WARNING, logger="retention"):
        data.setup("test")
    [batch] = list(data.test_dataloader())
    row_of = {index: row for row, index in enumerate(batch["index"].tolist())}
    labels = batch["labels"].tolist()
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    first = [token for token in labels[row_of[0]] if token >= 0]
    assert first == tokenizer("the horse is here. it is a horse.")["input_ids"] and (first[0], first[-1]) == (
        start,
        end,
    )
    assert labels[row_of[0]][len(first) :] == [-100] * (12 - len(first)), "padding is no target"
    truncated = labels[row_of[1]]
    assert len(truncated) == 12 and truncated[-1] == end, "a truncated summary ends with the last special token"
    assert (
        batch["abstract"][row_of[0]] == "the horse is here.\nit is a horse."
        and batch["abstract"][row_of[1]] == ARTICLES[1][1]
    )
    ends = batch["attention_mask"].sum(1) - 1
    assert batch["protected_mask"].sum(1).tolist() == [2] * 3 and batch["protected_mask"][:, 0].all()
    assert batch["protected_mask"].gather(1, ends.unsqueeze(1)).all()
    message = "articles test: 1 of 3 abstracts are longer than max_summary_length=12 tokens and were truncated"
    without_words = (
        "'abstract' has no word of the letters a-z or digits, which are all that ROUGE counts, in 1 of 3 rows"
    )
    assert len(caplog.messages) == 2 and without_words in caplog.messages[0]
    assert caplog.messages[1] == message
    assert data.describe()["summaries_cut"] == {"train": None, "val": None, "test": 1}


def test_decode_gives_one_sentence_per_line(make: MakeData) -> None:
    data, tokenizer = make(), KeywordData.build_tokenizer()
    tokenizer.add_tokens(["."])
    data.attach(tokenizer)
    first, second = " ".join(FILLER_WORDS[:4]), " ".join(FILLER_WORDS[4:9])
    written = tokenizer(f"{first} . {second} .")["input_ids"]
    assert data.decode([[*written, tokenizer.pad_token_id], []]) == [f"{first} .\n{second} .", ""]
    assert set(data.head()) == {"decode_fn", "max_summary_length"}


def test_cache_key_depends_on_the_summary_length(make: MakeData) -> None:
    for length in (12, 6):
        data = make(max_summary_length=length)
        data.setup("test")
        assert max(map(len, data._split("test").rows["summary_ids"])) == length


def test_blank_abstract_raises_with_its_line(make: MakeData) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl, line 1: 'abstract' is blank"):
        make(("an article", "\n")).setup("test")


@pytest.mark.parametrize(("key", "value"), [("article_column", None), ("max_summary_length", 1), ("max_length", 0)])
def test_invalid_setting_raises_with_its_key(make: MakeData, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{key: value})
    assert [problem.key for problem in raised.value.problems] == [key]
