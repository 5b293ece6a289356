"""Greedy oracle, by hand and compared with a search by ROUGE itself."""

from __future__ import annotations

import random

import pytest

from retention.tasks.summarization.metrics import Rouge
from retention.tasks.summarization.oracle import oracle_sentences


def test_selection_by_hand() -> None:
    sentences = ["a cat sat down", "the dog ran away", "a cat and a dog sat", "nothing of this kind"]
    # The abstract has 7 words and 6 pairs. Alone, sentence 2 shares 5 of its 6 words and 2 of its 5 pairs with it:
    # 10/13 + 4/11 = 1.13; sentences 0 and 1 share 3 of 4 words and 2 of 3 pairs: 6/11 + 4/9 = 0.99. To 2, sentence 1
    # adds 2 words and 2 pairs: 14/17 + 8/15 = 1.36, sentence 0 no word and 1 pair; after that nothing is missing but
    # the pair "cat sat", not worth 4 more words: 14/21 + 10/19.
    assert oracle_sentences(sentences, ["a cat sat", "a dog ran away"]) == [1, 2]


def test_selection_stops_where_rouge_falls() -> None:
    assert oracle_sentences(["the whole abstract", "some other words"], ["the whole abstract"]) == [0]
    assert oracle_sentences(["no shared word", "nor here"], ["the abstract"]) == []


def test_stems_and_punctuation_do_not_matter() -> None:
    assert oracle_sentences(["nothing", "The mouse's TESTS, repeated!"], ["testing mouse repeatedly"]) == [1]


def test_first_of_equal_sentences_is_selected_once() -> None:
    assert oracle_sentences(["same words here"] * 3, ["same words here"]) == [0]


@pytest.mark.parametrize(
    ("sentences", "abstract", "chosen"),
    [
        (["one sentence only"], ["a far longer abstract", "than its one sentence only"], [0]),
        (["!!!", "\x00\x01", "細胞"], ["words"], []),
        (["words"], ["!!!"], []),
        ([], ["words"], []),
        (["words"], [], []),
    ],
)
def test_unusual_articles(sentences: list[str], abstract: list[str], chosen: list[int]) -> None:
    assert oracle_sentences(sentences, abstract) == chosen


def test_limit_keeps_the_first_selected_sentences() -> None:
    sentences = ["one two three four", "five six", "seven eight nine"]
    abstract = ["one two three four five six seven eight nine"]
    assert oracle_sentences(sentences, abstract) == [0, 1, 2]
    assert oracle_sentences(sentences, abstract, 1) == [0]
    assert oracle_sentences(sentences, abstract, 2) == [0, 2]


def test_selection_equals_a_greedy_search_with_rouge() -> None:
    rng = random.Random(3)
    words = [f"w{number}" for number in range(30)]
    # sentences end in a distinct word, so that no pair across a boundary can match
    sentences = [" ".join([*rng.choices(words, k=rng.randint(3, 8)), f"end{index}"]) for index in range(12)]
    abstract = " ".join(rng.choices(words, k=25))

    def value(chosen: list[int]) -> float:
        text = "\n".join(sentences[index] for index in sorted(chosen))
        scores = Rouge().compute(predictions=[text], references=[abstract])
        return float(scores["rouge1"] + scores["rouge2"])

    chosen: list[int] = []
    best = 0.0
    while len(chosen) < len(sentences):
        tried = [(value([*chosen, index]), -index) for index in range(len(sentences)) if index not in chosen]
        score, index = max(tried)
        if score <= best:
            break
        best, chosen = score, [*chosen, -index]
    assert oracle_sentences(sentences, [abstract]) == sorted(chosen) and len(chosen) > 2
