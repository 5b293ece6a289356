"""Combine the outputs of the head for all windows of a text into candidates for the answer to each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retention.tasks.question_answering.passages import ANSWER_TYPES, NONE, SPAN


@dataclass
class AnswerCandidates:
    """Candidates for the answer to one question.

    Attributes:
        types: log-probability of each answer type. Over several windows, the highest of each, but the lowest of
            ``none``: the text has no answer only if no window has one.
        spans: (first token, last token) of the text -> log-probability of type and span, the highest over the windows.
    """

    types: list[float] = field(default_factory=list)
    spans: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, types: Sequence[float], spans: Sequence[Sequence[float]]) -> None:
        """Add one window: log-probabilities of the types, and (first, last, log-probability given the type)."""
        merged = [max(pair) for pair in zip(self.types or types, types, strict=True)]
        merged[NONE] = min((self.types or types)[NONE], types[NONE])
        self.types = merged
        for first, last, score in spans:
            span = (int(first), int(last))
            self.spans[span] = max(self.spans.get(span, -float("inf")), types[SPAN] + score)

    @property
    def answer_type(self) -> int:
        """Return the most likely answer type; never a span where there are no spans."""
        options = [index for index in range(len(ANSWER_TYPES)) if index != SPAN or self.spans]
        return max(options, key=lambda index: self.types[index])

    def best_spans(self, count: int) -> list[tuple[tuple[int, int], float]]:
        """Return the most likely spans with their log-probability, best first, at most ``count``."""
        return sorted(self.spans.items(), key=lambda entry: (-entry[1], entry[0]))[:count]


def merge_windows(rows: Mapping[str, Sequence[Any]]) -> dict[tuple[int, int], AnswerCandidates]:
    """Merge the rows (columns ``question``, ``types``, ``spans``) of each question."""
    candidates: dict[tuple[int, int], AnswerCandidates] = {}
    for question, types, spans in zip(rows["question"], rows["types"], rows["spans"], strict=True):
        candidates.setdefault((question[0], question[1]), AnswerCandidates()).add(types, spans)
    return candidates
