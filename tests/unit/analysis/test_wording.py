"""Readable pieces of every kind of tokenizer."""

from __future__ import annotations

import pytest

from retention.report.detokenize import pieces


def text_of(tokens: list[str]) -> str:
    return "".join((" " if piece.spaced else "") + piece.text for piece in pieces(tokens)).strip()


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
def test_text_reads_as_it_was_written(tokens: list[str], text: str | None) -> None:
    assert text_of(tokens) == ("[CLS] unforgettable, it's good. [SEP]" if text is None else text)


def test_one_piece_per_token_and_special_tokens_are_known() -> None:
    shown = pieces(["[CLS]", "##", "a", "[", "<mask>", "<|endoftext|>", "<b"])
    assert [piece.special for piece in shown] == [True, False, False, False, True, True, False]
    assert [piece.text for piece in shown] == ["[CLS]", "##", "a", "[", "<mask>", "<|endoftext|>", "<b"]


def test_bytes_cut_within_a_letter_do_not_fail() -> None:
    assert pieces(["Ġa", "âĢ"])[1].text == "\ufffd"
