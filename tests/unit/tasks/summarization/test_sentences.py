"""Sentence splitting on the kinds of text in scientific articles."""

from __future__ import annotations

import pytest

from retention.tasks.summarization.sentences import article_sentences, split_sentences


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("cells grow fast. they divide too.", ["cells grow fast.", "they divide too."]),
        ("it was shown <cit> . later work agreed.", ["it was shown <cit> .", "later work agreed."]),
        (
            "smith et al. showed this in fig. <dig> . so it holds.",
            ["smith et al. showed this in fig. <dig> .", "so it holds."],
        ),
        ("genes of b. taurus and e. coli, e.g. trna, differ.", ["genes of b. taurus and e. coli, e.g. trna, differ."]),
        (
            "the value was 0.05 in all mice. p < 0.1 was found too.",
            ["the value was 0.05 in all mice.", "p < 0.1 was found too."],
        ),
        ('is this "so it is said?" we think it is.', ['is this "so it is said?"', "we think it is."]),
        ("one line without an end", ["one line without an end"]),
        ("we saw it all. yes. and then we went on.", ["we saw it all. yes.", "and then we went on."]),
        ("much\tspace   here .\u00a0and no more of it.", ["much space here .", "and no more of it."]),
        ("", []),
        (" \t ", []),
        (". . .", [". . ."]),
    ],
)
def test_sentences_of_one_line(line: str, sentences: list[str]) -> None:
    assert split_sentences(line) == sentences


def test_every_line_break_ends_a_sentence() -> None:
    text = "first part of it\nsecond part\r\n\r\nthird one\u2028fourth one\x0cfifth"
    assert split_sentences(text) == ["first part of it", "second part", "third one", "fourth one", "fifth"]


def test_headings_and_table_cells_are_left_out() -> None:
    text = "BACKGROUND\ncells grow fast. they divide.\n\nMETHODS WE HAVE USED\n<dig>\na\n<cit> .\nwe used two mice.\n"
    assert article_sentences(text) == ["cells grow fast. they divide.", "we used two mice."]


def test_empty_sections_are_left_out() -> None:
    assert article_sentences("RESULTS\n\nCONCLUSIONS\nthe cells were fine.") == ["the cells were fine."]


def test_upper_case_with_an_end_mark_is_a_sentence() -> None:
    assert article_sentences("THE CELLS GREW FAST.\nTHE HEADING HAS NONE") == ["THE CELLS GREW FAST."]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("cells grow.", ["cells grow."]),
        ("BACKGROUND\n42", ["BACKGROUND", "42"]),
        ("\u200b", ["\u200b"]),
        ("\x00\x07 beep", ["\x00\x07 beep"]),
        ("細胞は成長する。とても速い。", ["細胞は成長する。とても速い。"]),
    ],
)
def test_everything_is_kept_where_nothing_else_is_there(text: str, sentences: list[str]) -> None:
    assert article_sentences(text) == sentences
