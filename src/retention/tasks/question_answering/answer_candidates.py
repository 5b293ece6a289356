"""What the head says about a question, put together from all windows of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retention.tasks.question_answering.passages import ANSWER_TYPES, NONE, SPAN


@dataclass
class AnswerCandidates:
    """The answer to one question.

    Attributes:
        types: log-probability of each answer type. Over several windows, the highest of each, but the lowest of
            ``none``: the text has no answer only if no window has one.
        spans: (first token, last token) of the text -> log-probability of type and place, the highest over the windows.
    """

    types: list[float] = field(default_factory=list)
    spans: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, types: Sequence[float], spans: Sequence[Sequence[float]]) -> None:
        """Take in one window: log-probabilities of the types, and (first, last, log-probability given the type)."""
        merged = [max(pair) for pair in zip(self.types or types, types, strict=True)]
        merged[NONE] = min((self.types or types)[NONE], types[NONE])
        self.types = merged
        for first, last, score in spans:
            place = (int(first), int(last))
            self.spans[place] = max(self.spans.get(place, -float("inf")), types[SPAN] + score)

    @property
    def answer_type(self) -> int:
        """The most likely answer type; not a span where there is none."""
        options = [place for place in range(len(ANSWER_TYPES)) if place != SPAN or self.spans]
        return max(options, key=lambda place: self.types[place])

    def best_spans(self, count: int) -> list[tuple[tuple[int, int], float]]:
        """The most likely spans with their log-probability, best first, at most ``count``."""
        return sorted(self.spans.items(), key=lambda entry: (-entry[1], entry[0]))[:count]


def merge_windows(rows: Mapping[str, Sequence[Any]]) -> dict[tuple[int, int], AnswerCandidates]:
    """Put the rows (``question``, ``types``, ``spans``) of each question together."""
    found: dict[tuple[int, int], AnswerCandidates] = {}
    for question, types, spans in zip(rows["question"], rows["types"], rows["spans"], strict=True):
        found.setdefault((question[0], question[1]), AnswerCandidates()).add(types, spans)
    return found
