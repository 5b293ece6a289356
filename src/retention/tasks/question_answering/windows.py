"""From a question and a long text to token rows: whole, or as overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from retention.data.splits import require_count
from retention.errors import Checks
from retention.tasks.question_answering.passages import Range

Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a question and its text become rows.

    Attributes:
        max_length: tokens per row: question, text and special tokens.
        max_question_length: tokens of a question; longer ones are cut and counted.
        stride: tokens of text between the starts of neighbouring windows, so that windows share what is left; None =
            one row per question, the text cut at ``max_length``.
        max_document_length: tokens of a text that windows cover; None = all of it.
    """

    max_length: int
    max_question_length: int
    stride: int | None
    max_document_length: int | None

    def check(self, checks: Checks) -> None:
        """Record what is wrong with the settings; ``max_length`` itself is checked elsewhere."""
        require_count(checks, "max_question_length", self.max_question_length)
        require_count(checks, "stride", self.stride, optional=True)
        require_count(checks, "max_document_length", self.max_document_length, optional=True)
        if checks.problems:
            return
        half = self.max_length // 2
        message = f"must be at most half of max_length={self.max_length}, got {self.max_question_length}"
        checks.require(self.max_question_length <= half, "max_question_length", f"{message}; lower it")
        if self.stride is None:
            message = f"goes with windows, got {self.max_document_length} without a stride; set stride or leave it null"
            checks.require(self.max_document_length is None, "max_document_length", message)
        else:
            message = f"must be below max_length={self.max_length}, or windows leave gaps, got {self.stride}"
            checks.require(self.stride < self.max_length, "stride", message)

    def cut(self, tokens: int, frame: QuestionTemplate) -> Windows:
        """The windows over a text of so many tokens; an empty text has one empty window."""
        room = self.max_length - len(frame.prefix) - len(frame.suffix)
        if self.stride is None:
            return Windows([(0, min(tokens, room))], tokens > room)
        used = tokens if self.max_document_length is None else min(tokens, self.max_document_length)
        return Windows(list(_windows(used, room, min(self.stride, room))), used < tokens)


@dataclass(frozen=True)
class Windows:
    """Token ranges (first, behind the last) of a text, and whether the text goes on behind them."""

    ranges: list[Range]
    truncated: bool


@dataclass(frozen=True)
class TokenizedText:
    """The tokens of a text, without special ones.

    Attributes:
        ids: [N].
        starts: [N] first character of each token.
        ends: [N] character behind each token.
    """

    ids: Ints
    starts: Ints
    ends: Ints

    def tokens(self, characters: Range) -> Range | None:
        """The tokens (first, behind the last) that cover these characters; None where there is none."""
        first = int(np.searchsorted(self.ends, characters[0], side="right"))
        behind = int(np.searchsorted(self.starts, characters[1], side="left"))
        return (first, behind) if first < behind else None

    def characters(self, tokens: Range) -> Range:
        """The characters (first, behind the last) of at least one token (first, behind the last)."""
        return int(self.starts[tokens[0]]), int(self.ends[tokens[1] - 1])


@dataclass(frozen=True)
class QuestionTemplate:
    """What stands around a window: special tokens and question before it, special tokens behind it.

    Attributes:
        prefix: token ids.
        suffix: token ids.
        question_cut: whether the question was longer than allowed.
    """

    prefix: list[int]
    suffix: list[int]
    question_cut: bool


def tokenize_text(tokenizer: PreTrainedTokenizerFast, text: str) -> TokenizedText:
    """Tokens of a text with their characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int32).reshape(-1, 2)
    return TokenizedText(np.asarray(encoded["input_ids"], dtype=np.int32), offsets[:, 0], offsets[:, 1])


def question_frame(tokenizer: PreTrainedTokenizerFast, question: str, max_question_length: int) -> QuestionTemplate:
    """The tokenizer's own way of writing a pair of texts, with the second one left open."""
    tokens = tokenize_text(tokenizer, question)
    cut = len(tokens.ids) > max_question_length
    if cut:
        question = question[: int(tokens.ends[max_question_length - 1])]
    encoded = tokenizer(question, "the", verbose=False)
    ids, sequence = list(encoded["input_ids"]), encoded.sequence_ids(0)
    second = [place for place, owner in enumerate(sequence) if owner == 1]
    return QuestionTemplate(ids[: second[0]], ids[second[-1] + 1 :], cut)


def frame_row(frame: QuestionTemplate, text: TokenizedText, window: Range) -> dict[str, Any]:
    """One row without its targets.

    Returns:
        ``input_ids``, ``protected`` (all but the text), ``length``, ``question_cut``; ``context``, the places of the
        text in the row (first, behind the last); ``shift``, what turns a place in the row into a token of the text.
    """
    first, behind = window
    before, count = len(frame.prefix), behind - first
    ids = np.concatenate([frame.prefix, text.ids[first:behind], frame.suffix]).astype(np.int32)
    protected = np.ones(len(ids), dtype=np.bool_)
    protected[before : before + count] = False
    return {
        "input_ids": ids,
        "protected": protected,
        "length": len(ids),
        "question_cut": frame.question_cut,
        "context": [before, before + count],
        "shift": first - before,
    }


def _windows(tokens: int, room: int, step: int) -> Iterator[Range]:
    start = 0
    while True:
        yield start, min(start + room, tokens)
        if start + room >= tokens:
            return
        start += step
