"""Turn a question and a long text into token rows: one row with the whole text, or overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from retention.data.settings import require_count
from retention.errors import require
from retention.tasks.question_answering.passages import Range

Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """Settings by which a question and its text become rows.

    Attributes:
        max_length: tokens per row: question, text and special tokens.
        max_question_length: tokens of a question; longer ones are truncated and counted.
        stride: tokens of text between the starts of neighboring windows, so that windows overlap by the rest; None =
            one row per question, the text truncated at ``max_length``.
        max_document_length: tokens of a text that windows cover; None = all of it.

    Raises:
        ConfigError: a setting is out of range.
    """

    max_length: int
    max_question_length: int
    stride: int | None
    max_document_length: int | None

    def __post_init__(self) -> None:
        require_count("max_length", self.max_length)
        require_count("max_question_length", self.max_question_length)
        require_count("stride", self.stride, optional=True)
        require_count("max_document_length", self.max_document_length, optional=True)
        half = self.max_length // 2
        message = f"must be at most half of max_length={self.max_length}, got {self.max_question_length}; lower it"
        require(self.max_question_length <= half, "max_question_length", message)
        if self.stride is None:
            message = f"needs windows, got {self.max_document_length} without a stride; set stride or leave it null"
            require(self.max_document_length is None, "max_document_length", message)
        else:
            message = f"must be below max_length={self.max_length}, or windows leave gaps, got {self.stride}"
            require(self.stride < self.max_length, "stride", message)

    def cut(self, tokens: int, template: QuestionTemplate) -> Windows:
        """Return the windows over a text of ``tokens`` tokens; an empty text has one empty window."""
        room = self.max_length - len(template.prefix) - len(template.suffix)
        if self.stride is None:
            return Windows([(0, min(tokens, room))], tokens > room)
        used = tokens if self.max_document_length is None else min(tokens, self.max_document_length)
        return Windows(list(_windows(used, room, min(self.stride, room))), used < tokens)


@dataclass(frozen=True)
class Windows:
    """Token ranges [start, end) of a text.

    Attributes:
        ranges: one range per window, ascending.
        truncated: True if the text has tokens after the last window.
    """

    ranges: list[Range]
    truncated: bool


@dataclass(frozen=True)
class TokenizedText:
    """Tokens of a text, without special tokens.

    Attributes:
        ids: [N] token ids.
        starts: [N] first character of each token.
        ends: [N] character after each token.
    """

    ids: Ints
    starts: Ints
    ends: Ints

    def tokens(self, characters: Range) -> Range | None:
        """Return the tokens [start, end) that cover characters [start, end); None where there is none."""
        start = int(np.searchsorted(self.ends, characters[0], side="right"))
        end = int(np.searchsorted(self.starts, characters[1], side="left"))
        return (start, end) if start < end else None

    def characters(self, tokens: Range) -> Range:
        """Return the characters [start, end) of tokens [start, end), of which there is at least one."""
        return int(self.starts[tokens[0]]), int(self.ends[tokens[1] - 1])


@dataclass(frozen=True)
class QuestionTemplate:
    """Tokens around a window: special tokens and the question before it, special tokens after it.

    Attributes:
        prefix: token ids before the window.
        suffix: token ids after the window.
        question_truncated: True if the question was longer than allowed.
    """

    prefix: list[int]
    suffix: list[int]
    question_truncated: bool


def tokenize_text(tokenizer: PreTrainedTokenizerFast, text: str) -> TokenizedText:
    """Tokenize a text, with the characters of each token."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int32).reshape(-1, 2)
    return TokenizedText(np.asarray(encoded["input_ids"], dtype=np.int32), offsets[:, 0], offsets[:, 1])


def question_template(tokenizer: PreTrainedTokenizerFast, question: str, max_question_length: int) -> QuestionTemplate:
    """Return the tokens that the tokenizer puts around the second text of a pair whose first text is ``question``."""
    tokens = tokenize_text(tokenizer, question)
    truncated = len(tokens.ids) > max_question_length
    if truncated:
        question = question[: int(tokens.ends[max_question_length - 1])]
    encoded = tokenizer(question, "the", verbose=False)
    ids, sequence_ids = list(encoded["input_ids"]), encoded.sequence_ids(0)
    second = [position for position, sequence in enumerate(sequence_ids) if sequence == 1]
    return QuestionTemplate(ids[: second[0]], ids[second[-1] + 1 :], truncated)


def window_row(template: QuestionTemplate, text: TokenizedText, window: Range) -> dict[str, Any]:
    """Build the row of one window, without its targets.

    Returns:
        ``input_ids``; ``protected_mask`` (True on all tokens but the text); ``length``; ``question_cut`` (True if the
        question was truncated); ``context``, positions [start, end) of the text in the row; ``shift``, so that
        position + shift = token of the text.
    """
    start, end = window
    before, count = len(template.prefix), end - start
    ids = np.concatenate([template.prefix, text.ids[start:end], template.suffix]).astype(np.int32)
    protected_mask = np.ones(len(ids), dtype=np.bool_)
    protected_mask[before : before + count] = False
    return {
        "input_ids": ids,
        "protected_mask": protected_mask,
        "length": len(ids),
        "question_cut": template.question_truncated,
        "context": [before, before + count],
        "shift": start - before,
    }


def _windows(tokens: int, room: int, step: int) -> Iterator[Range]:
    start = 0
    while True:
        yield start, min(start + room, tokens)
        if start + room >= tokens:
            return
        start += step
