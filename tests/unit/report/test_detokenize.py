"""Readable text of every kind of tokenizer."""

from __future__ import annotations

import pytest

from retention.report.detokenize import detokenize, from_offsets


def text_of(tokens: list[str]) -> str:
    return "".join((" " if token.space_before else "") + token.text for token in detokenize(tokens)).strip()


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["[CLS]", "un", "##forget", "##table", ",", "it", "'", "s", "good", ".", "[SEP]"], None),
        (["<s>", "It", "Ġworks", ".", "</s>"], "<s>It works. </s>"),
        (["▁It", "▁work", "s"], "It works"),
        (["apple", "the", "tool"], "apple the tool"),
        (["(", "well", "-", "known", ")"], "(well-known)"),
        (["âĢľ", "Ġna", "Ã¯", "ve"], "\u201c na\u00efve"),
    ],
)
def test_tokens_read_as_text(tokens: list[str], text: str | None) -> None:
    assert text_of(tokens) == ("[CLS] unforgettable, it's good. [SEP]" if text is None else text)


def test_special_tokens_are_recognized() -> None:
    shown = detokenize(["[CLS]", "##", "a", "[", "<mask>", "<|endoftext|>", "<b"])
    assert [token.special for token in shown] == [True, False, False, False, True, True, False]
    assert [token.text for token in shown] == ["[CLS]", "##", "a", "[", "<mask>", "<|endoftext|>", "<b"]


def test_bytes_of_a_partial_character_are_replaced() -> None:
    assert detokenize(["Ġa", "âĢ"])[1].text == "\ufffd"


def test_offsets_show_the_text_as_it_was_written() -> None:
    text = "Don't re-read  U.S. na\u00efve"
    tokens = ["[CLS]", "don", "'", "t", "re", "-", "read", "u", ".", "s", ".", "naive", "[SEP]"]
    starts_and_ends = "0:0 0:3 3:4 4:5 6:8 8:9 9:13 15:16 16:17 17:18 18:19 20:25 0:0"
    offsets = [tuple(map(int, pair.split(":"))) for pair in starts_and_ends.split()]
    shown = from_offsets(tokens, text, offsets)
    joined = "".join((" " if token.space_before else "") + token.text for token in shown).strip()
    assert joined == "[CLS] Don't re-read U.S. na\u00efve [SEP]"
    assert [token.special for token in shown] == [True, *[False] * 11, True]
