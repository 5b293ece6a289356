"""The piece of a text that comes closest to an answer, against trying all pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retention.tasks.question_answering.answer_text import token_f1
from retention.tasks.question_answering.best_span import TextWords, best_f1

WORDS = st.lists(st.sampled_from(["red", "wine", "The", "glass,", "and", "x", "--"]), max_size=9)


@given(words=WORDS, answer=WORDS)
def test_no_piece_is_better(words: list[str], answer: list[str]) -> None:
    text, gold = " ".join(words), " ".join(answer)
    pieces = [" ".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)]
    expected = max((token_f1(piece, gold) for piece in pieces), default=0.0)
    found = TextWords(text).best(gold)
    assert best_f1(TextWords(text), gold) == expected
    if found is not None:
        assert token_f1(text[found.start : found.end], gold) == found.f1 == expected


def test_the_first_of_equals_and_a_limit() -> None:
    text = "we drink red wine, then red wine"
    found = TextWords(text).best("the red wine")
    assert found is not None and (found.start, text[found.start : found.end]) == (9, "red wine,")
    limited = TextWords(text).best("red wine", until=12)
    assert limited is not None and text[limited.start : limited.end] == "red"
    assert TextWords(text).best("beer") is None and TextWords("").best("beer") is None
