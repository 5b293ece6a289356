"""Compare answers as texts by the rules of SQuAD (Rajpurkar et al. 2016, 2018); find the span closest to an answer."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def answer_words(text: str) -> list[str]:
    """Normalize a text into words: lower case, without ASCII punctuation and without a, an, the."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def same_answer(prediction: str, reference: str) -> bool:
    """Return True if both texts have the same normalized words in the same order."""
    return answer_words(prediction) == answer_words(reference)


def token_f1(prediction: str, reference: str) -> float:
    """Compute the F1 of normalized words, in [0, 1]; 0 where no word is shared, also if both are empty."""
    predicted, expected = answer_words(prediction), answer_words(reference)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * shared / (len(predicted) + len(expected)) if shared else 0.0


def answer_scores(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 of a prediction, each the best over the references, in [0, 1].

    Both are those of SQuAD 2.0's official script: answers that are articles or punctuation alone do not count, and
    without an answer only the empty prediction scores.

    Args:
        prediction: predicted answer; empty = the question has no answer.
        references: answers of all annotators; empty = the question has no answer.
    """
    gold = [text for text in references if answer_words(text)] or [""]
    exact, f1 = 0.0, 0.0
    for text in gold:
        same = float(same_answer(prediction, text))
        comparable = answer_words(prediction) and answer_words(text)
        exact, f1 = max(exact, same), max(f1, token_f1(prediction, text) if comparable else same)
    return exact, f1


@dataclass(frozen=True)
class SpanMatch:
    """Span of a text, characters [start, end), and its token F1 against an answer."""

    start: int
    end: int
    f1: float


class SpanMatcher:
    """Find the span of a text that is closest to an answer; the text is split into words once.

    Args:
        text: text to search.
    """

    def __init__(self, text: str) -> None:
        self._spans: list[tuple[int, int]] = []  # characters [start, end) of each word
        self._words: list[list[str]] = []
        for match in re.finditer(r"\S+", text):
            words = answer_words(match.group())
            if words:  # punctuation and articles alone do not count
                self._spans.append(match.span())
                self._words.append(words)

    def best(self, answer: str, *, until: int | None = None) -> SpanMatch | None:
        """Return the span with the highest token F1, the first of equal ones; None where no word is shared.

        Args:
            answer: answer to match.
            until: consider only spans that end at or before this character; None = the whole text.
        """
        reference = Counter(answer_words(answer))
        size = sum(reference.values())
        best: SpanMatch | None = None
        matching = [i for i, words in enumerate(self._words) if any(word in reference for word in words)]
        for position, first in enumerate(matching):
            best = self._extend(matching[position:], first, reference, size, until, best) or best
            if best is not None and best.f1 == 1.0:
                break
        return best

    def best_f1(self, answer: str, *, until: int | None = None) -> float:
        """Return the highest token F1 of any span of the text, in [0, 1]; arguments as for ``best``."""
        match = self.best(answer, until=until)
        return 0.0 if match is None else match.f1

    def _extend(
        self,
        ends: Sequence[int],
        first: int,
        reference: Counter[str],
        size: int,
        until: int | None,
        best: SpanMatch | None,
    ) -> SpanMatch | None:
        """Return a span from word ``first`` to one of the words ``ends`` that is better than ``best``, if any."""
        left, shared, length, end = dict(reference), 0, 0, first
        better: SpanMatch | None = None
        for last in ends:
            if until is not None and self._spans[last][1] > until:
                break
            for words in self._words[end : last + 1]:
                length += len(words)
                for word in words:
                    if left.get(word, 0) > 0:
                        left[word] -= 1
                        shared += 1
            end = last + 1
            leader = better or best
            score = 2.0 * shared / (length + size)
            if leader is None or score > leader.f1:
                better = leader = SpanMatch(self._spans[first][0], self._spans[last][1], score)
            if 2.0 * size / (length + size) <= leader.f1:  # even with every word of the answer it gets no better
                break
        return better


def closest_text(texts: Sequence[str], answers: Sequence[str]) -> int:
    """Return the index of the text with the highest token F1 against any answer, the first of equal ones."""
    scores = [max(token_f1(text, answer) for answer in answers) for text in texts]
    return scores.index(max(scores))
