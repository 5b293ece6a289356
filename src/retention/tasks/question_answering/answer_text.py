"""Comparing answers as texts, by the rules of SQuAD 1.1 (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def answer_words(text: str) -> list[str]:
    """The words that count: lower case, without ASCII punctuation and without a, an, the."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def same_answer(guess: str, truth: str) -> bool:
    """Whether the words that count are the same, in the same order."""
    return answer_words(guess) == answer_words(truth)


def token_f1(guess: str, truth: str) -> float:
    """Harmonic mean of word precision and recall, in [0, 1]; 0 where no word is shared, also if both are empty."""
    return words_f1(answer_words(guess), answer_words(truth))


def words_f1(guess: Sequence[str], truth: Sequence[str]) -> float:
    """``token_f1`` of words that were taken by ``answer_words`` already."""
    shared = sum((Counter(guess) & Counter(truth)).values())
    return 2.0 * shared / (len(guess) + len(truth)) if shared else 0.0
