"""Search for the span closest to an answer, compared with trying all spans."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retention.data.answer_text import SpanMatcher, token_f1

WORDS = st.lists(st.sampled_from(["red", "wine", "The", "glass,", "and", "x", "--"]), max_size=9)


@given(words=WORDS, answer=WORDS)
def test_best_span_has_the_highest_f1_of_all_spans(words: list[str], answer: list[str]) -> None:
    text, gold = " ".join(words), " ".join(answer)
    spans = [" ".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)]
    expected = max((token_f1(span, gold) for span in spans), default=0.0)
    match = SpanMatcher(text).best(gold)
    assert SpanMatcher(text).best_f1(gold) == expected
    if match is not None:
        assert token_f1(text[match.start : match.end], gold) == match.f1 == expected


def test_first_of_equal_spans_and_limit() -> None:
    text = "we drink red wine, then red wine"
    match = SpanMatcher(text).best("the red wine")
    assert match is not None and (match.start, text[match.start : match.end]) == (9, "red wine,")
    limited = SpanMatcher(text).best("red wine", until=12)
    assert limited is not None and text[limited.start : limited.end] == "red"
    assert SpanMatcher(text).best("beer") is None and SpanMatcher("").best("beer") is None
