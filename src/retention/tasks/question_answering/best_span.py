"""The words of a text that come closest to an answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from retention.tasks.question_answering.answer_text import answer_words, token_f1


@dataclass(frozen=True)
class Match:
    """A piece of a text, by characters (first, behind the last), and its token F1 against an answer."""

    start: int
    end: int
    f1: float


class TextWords:
    """The words of a text with their places, ready to be compared with many answers."""

    def __init__(self, text: str) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._words: list[list[str]] = []
        for found in re.finditer(r"\S+", text):
            words = answer_words(found.group())
            if words:  # mere punctuation and articles count for nothing
                self._ranges.append(found.span())
                self._words.append(words)

    def best(self, answer: str, *, until: int | None = None) -> Match | None:
        """The piece with the highest token F1, the first of equals; None where no word is shared.

        Args:
            answer: to be matched.
            until: only pieces that end at or before this character; None = the whole text.
        """
        truth = Counter(answer_words(answer))
        size = sum(truth.values())
        best: Match | None = None
        matching = [i for i, words in enumerate(self._words) if any(word in truth for word in words)]
        for position, first in enumerate(matching):
            grown = self._grow(matching[position:], first, truth, size, until, best)
            best = grown or best
            if best is not None and best.f1 == 1.0:
                break
        return best

    def _grow(
        self,
        ends: Sequence[int],
        first: int,
        truth: Counter[str],
        size: int,
        until: int | None,
        best: Match | None,
    ) -> Match | None:
        """A piece from ``first`` to one of the words ``ends`` that is better than ``best``."""
        left, shared, length, behind = dict(truth), 0, 0, first
        better: Match | None = None
        for last in ends:
            if until is not None and self._ranges[last][1] > until:
                break
            for words in self._words[behind : last + 1]:
                length += len(words)
                for word in words:
                    if left.get(word, 0) > 0:
                        left[word] -= 1
                        shared += 1
            behind = last + 1
            reached = better or best
            score = 2.0 * shared / (length + size)
            if reached is None or score > reached.f1:
                better = reached = Match(self._ranges[first][0], self._ranges[last][1], score)
            if 2.0 * size / (length + size) <= reached.f1:  # even with every word of the answer it gets no better
                break
        return better


def best_f1(text: TextWords, answer: str, *, until: int | None = None) -> float:
    """The highest token F1 that any piece of the text reaches, in [0, 1]."""
    found = text.best(answer, until=until)
    return 0.0 if found is None else found.f1


def closest(texts: Sequence[str], answers: Sequence[str]) -> int:
    """The place of the text with the highest token F1 against any answer, the first of equals."""
    scores = [max(token_f1(text, answer) for answer in answers) for text in texts]
    return scores.index(max(scores))
