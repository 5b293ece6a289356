"""Articles as marked sentences with the oracle summary, from files to batches."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from retention.data.encoding import encode_sentences
from retention.errors import ConfigError, DataError
from retention.tasks.classification.keywords import KeywordData
from retention.tasks.summarization.data import SummarizationData

MakeData = Callable[..., SummarizationData]
ARTICLES = [
    ("HEADING\nthe horse ran far away. a cow ate the grass.\n\nRESULTS\n\nso we saw them both.", "the cow ate grass."),
    ("one sentence is all.", "a much longer abstract than the article. it says one sentence is all there was to say."),
    ("control \x00 and \x1f characters here.\nunicode \U0001f40e word and 馬 too.", "a word and \U0001f40e too."),
    ("nothing in common at all.", "!!!"),
]
UNRELATED = ("nothing in common at all.", "other words")


@pytest.fixture
def make(make_articles: Callable[..., SummarizationData]) -> MakeData:
    def build(*articles: tuple[str, str], **overrides: Any) -> SummarizationData:
        return make_articles(SummarizationData, articles or ARTICLES, **overrides)

    return build


def rows_of(data: SummarizationData) -> dict[int, dict[str, Any]]:
    """Return the rows of all test batches, by index."""
    data.setup("test")
    rows: dict[int, dict[str, Any]] = {}
    for batch in data.test_dataloader():
        for position, index in enumerate(batch["index"].tolist()):
            rows[index] = {key: values[position] for key, values in batch.items()}
    return rows


def test_every_sentence_has_a_protected_marker(make: MakeData, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make()
    for row in rows_of(data).values():
        length, count = int(row["attention_mask"].sum()), int(row["sentence_mask"].sum())
        tokens, markers = row["input_ids"][:length], row["markers"][:count]
        assert count == len(row["sentences"])
        assert markers[0] == 0 and (tokens[markers] == tokenizer.cls_token_id).all()
        assert tokens[-1] == tokenizer.sep_token_id
        assert row["protected_mask"].nonzero().flatten().tolist() == [*markers.tolist(), length - 1]
        assert (row["markers"][count:] == 0).all() and (row["targets"][count:] == 0).all()


def test_tokens_of_a_sentence_are_one_span(make: MakeData) -> None:
    for row in rows_of(make()).values():
        length, count = int(row["attention_mask"].sum()), int(row["sentence_mask"].sum())
        markers, spans = row["markers"][:count].tolist(), row["spans"].tolist()
        alone = {*markers, *range(length - 1, len(spans))}
        assert all(spans[position] == position for position in alone), "markers, the last token, padding"
        for marker, end in zip(markers, [*markers[1:], length - 1], strict=True):
            assert set(spans[marker + 1 : end]) == {marker + 1} and end > marker + 1


def test_sentences_abstract_and_oracle_of_each_article(make: MakeData) -> None:
    rows = rows_of(make())
    selected = {index: row["targets"].nonzero().flatten().tolist() for index, row in rows.items()}
    assert rows[0]["sentences"] == ["the horse ran far away.", "a cow ate the grass.", "so we saw them both."]
    assert selected == {0: [1], 1: [0], 2: [1], 3: []}
    assert rows[1]["abstract"].split("\n") == [
        "a much longer abstract than the article.",
        "it says one sentence is all there was to say.",
    ]
    assert rows[3]["abstract"] == "!!!"


def test_split_without_any_selected_sentence_is_cached(make: MakeData) -> None:
    for _ in range(2):
        rows = rows_of(make(*[UNRELATED] * 45))  # more than are encoded at once
        assert len(rows) == 45 and not any(row["targets"].any() for row in rows.values())
    mixed = rows_of(make(*[UNRELATED] * 25, ARTICLES[0]))
    assert mixed[25]["targets"].tolist() == [0.0, 1.0, 0.0]


def test_long_articles_are_truncated_and_counted(make: MakeData, caplog: pytest.LogCaptureFixture) -> None:
    data = make(max_length=12)  # [CLS] the horse ran far away . [CLS] a cow ate [SEP]
    with caplog.at_level(logging.WARNING, logger="retention"):
        rows = rows_of(data)
    assert int(rows[0]["attention_mask"].sum()) == 12
    assert rows[0]["sentences"] == ["the horse ran far away.", "a cow ate the grass."], (
        "the text of a truncated sentence is complete"
    )
    assert "articles test: 2 of 4 documents are longer than max_length=12 tokens and were truncated" in caplog.messages
    shorter = rows_of(make(max_length=9))[0]
    assert shorter["sentences"] == ["the horse ran far away."], "a marker alone is no sentence"
    assert int(shorter["attention_mask"].sum()) == 8 and shorter["targets"].tolist() == [1.0] + [0.0] * (
        len(shorter["targets"]) - 1
    )


def test_truncation_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_sentences(tokenizer, [["a b c", "d e"], ["a b c"]], 7)
    assert encoded["markers"] == [[0, 4], [0]]
    assert encoded["length"] == [7, 5] and encoded["truncated"] == [True, False]
    whole = encode_sentences(tokenizer, [["a b c", "d e"]], 8)
    assert whole["length"] == [8] and whole["truncated"] == [False]


def test_cache_key_depends_on_the_oracle_limit(make: MakeData, cache_folder: Path) -> None:
    article = ("first part of it all. second part of it all too.", "first part of it all. second part of it all too.")
    assert rows_of(make(article))[0]["targets"].tolist() == [1.0, 1.0]
    assert rows_of(make(article, oracle_limit=1))[0]["targets"].sum() == 1
    assert len(list((cache_folder / "retention").glob("*.arrow"))) == 2


def test_interrupted_encoding_leaves_no_file(
    make: MakeData, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(*[ARTICLES[0]] * 50)
    encode, calls = data.encode, []

    def interrupted(documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        calls.append(indices)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(documents, indices)

    monkeypatch.setattr(data, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.setup("test")
    assert [len(indices) for indices in calls] == [20, 20, 10], "part of the rows was done"
    left = [path.name for path in (cache_folder / "retention").iterdir() if path.suffix != ".lock"]
    assert left == []
    assert len(rows_of(make(*[ARTICLES[0]] * 50))) == 50


def test_killed_encoding_leaves_no_partial_split(
    make: MakeData, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(*[ARTICLES[0]] * 50)
    encode = data.encode

    def killed(documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        if indices[0] >= 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(documents, indices)

    monkeypatch.setattr(data, "encode", killed)
    process = multiprocessing.get_context("fork").Process(target=data.setup, args=("test",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list((cache_folder / "retention").glob("articles-test-*.arrow")) == [], "nothing under the final name"
    assert len(rows_of(make(*[ARTICLES[0]] * 50))) == 50, "and the lock of the dead process is free"


def test_blank_abstract_raises_with_its_line(make: MakeData) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl, line 2: 'abstract' is blank"):
        make(ARTICLES[0], ("an article", " ")).setup("test")


def test_tokenizer_without_marker_tokens_raises(make: MakeData) -> None:
    tokenizer = KeywordData.build_tokenizer()
    tokenizer.eos_token, tokenizer.cls_token = "[SEP]", None
    with pytest.raises(DataError, match=r"has no \[CLS\] and \[SEP\] to mark sentences with"):
        make().attach(tokenizer)


@pytest.mark.parametrize(
    ("key", "value"),
    [("article_column", ""), ("abstract_column", 3), ("oracle_limit", 0), ("max_length", 0), ("local_note", "")],
)
def test_invalid_setting_raises_with_its_key(make: MakeData, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{key: value})
    assert [problem.key for problem in raised.value.problems] == [key]


def test_batches_have_tensors_and_texts(make: MakeData) -> None:
    data = make()
    data.setup("test")
    [batch] = list(data.test_dataloader())
    texts = {key for key, values in batch.items() if not isinstance(values, torch.Tensor)}
    assert texts == {"sentences", "abstract"}
    assert batch["targets"].dtype == torch.float32 and batch["sentence_mask"].dtype == torch.bool
