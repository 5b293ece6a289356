"""Rows and windows: their content, and that no token of a text is missing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from retention.errors import ConfigError
from retention.tasks.question_answering.windows import (
    QuestionTemplate,
    Windowing,
    question_template,
    tokenize_text,
    window_row,
)


def windowing(max_length: int = 10, stride: int | None = 3, longest: int | None = None) -> Windowing:
    return Windowing(max_length=max_length, max_question_length=2, stride=stride, max_document_length=longest)


TEMPLATE = QuestionTemplate([7, 8, 9], [9], False)  # leaves 6 of 10 tokens


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, [(0, 0)]),
        (6, [(0, 6)]),
        (7, [(0, 6), (3, 7)]),
        (12, [(0, 6), (3, 9), (6, 12)]),
    ],
)
def test_windows_by_hand(tokens: int, expected: list[tuple[int, int]]) -> None:
    windows = windowing().cut(tokens, TEMPLATE)
    assert windows.ranges == expected and not windows.truncated


@given(tokens=st.integers(0, 200), stride=st.integers(1, 9), room=st.integers(1, 9))
def test_every_token_is_in_a_window_and_neighbors_overlap(tokens: int, stride: int, room: int) -> None:
    template = QuestionTemplate([0] * (9 - room), [0], False)
    ranges = windowing(stride=stride).cut(tokens, template).ranges
    assert ranges[0][0] == 0 and ranges[-1][1] == tokens
    assert all(before[0] < after[0] <= before[1] for before, after in pairwise(ranges))
    assert all(end - start <= room for start, end in ranges)


def test_long_texts_are_truncated() -> None:
    assert windowing(stride=None).cut(7, TEMPLATE).ranges == [(0, 6)]
    assert windowing(stride=None).cut(7, TEMPLATE).truncated and not windowing(stride=None).cut(6, TEMPLATE).truncated
    limited = windowing(longest=8).cut(20, TEMPLATE)
    assert limited.ranges == [(0, 6), (3, 8)] and limited.truncated


def test_row_has_the_question_first_and_protects_all_but_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    template = question_template(tokenizer, "Which model?", 8)
    text = tokenize_text(tokenizer, "We use BERT, the model.")
    row = window_row(template, text, (1, 4))
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"].tolist())
    assert tokens == ["[CLS]", "which", "model", "[UNK]", "[SEP]", "use", "bert", "[UNK]", "[SEP]"]
    assert [token for token, kept in zip(tokens, row["protected_mask"], strict=True) if not kept] == [
        "use",
        "bert",
        "[UNK]",
    ]
    assert row["context"] == [5, 8] and row["shift"] == 1 - 5


def test_long_questions_are_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    template = question_template(tokenizer, "which model is used", 2)
    assert tokenizer.convert_ids_to_tokens(template.prefix) == ["[CLS]", "which", "model", "[SEP]"]
    assert template.question_truncated and not question_template(tokenizer, "which model", 2).question_truncated


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("We use BERT, the model.", "BERT"),
        ("naïve\u0007 Üñï — 红酒 BERT\u2028x", "Üñï"),
        ("a\x00b \ufeff BERT", "BERT"),
    ],
)
def test_characters_and_tokens_agree(tokenizer: PreTrainedTokenizerFast, text: str, part: str) -> None:
    tokens = tokenize_text(tokenizer, text)
    start = text.index(part)
    span = tokens.tokens((start, start + len(part)))
    assert span is not None
    first, end = tokens.characters(span)
    assert text[first:end] == part


def test_characters_without_tokens_give_none(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenize_text(tokenizer, "we \t use")
    assert tokens.tokens((2, 5)) is None
    assert tokenize_text(tokenizer, "").tokens((0, 3)) is None


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"stride": 10}, "stride", "windows leave gaps"),
        ({"stride": 0}, "stride", "whole number"),
        ({"max_question_length": 6}, "max_question_length", "at most half of max_length=10"),
        ({"stride": None, "max_document_length": 5}, "max_document_length", "without a stride"),
    ],
)
def test_invalid_setting_raises_with_its_key(changes: dict[str, int | None], key: str, message: str) -> None:
    settings = {"max_length": 10, "max_question_length": 2, "stride": 3, "max_document_length": None}
    with pytest.raises(ConfigError) as caught:
        Windowing(**{**settings, **changes})  # type: ignore[arg-type]
    [problem] = caught.value.problems
    assert problem.key == key and message in problem.message
