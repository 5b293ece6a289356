"""Turn tokens into readable text, token by token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers.decoders import ByteLevel

_SPECIAL = re.compile(r"\[[A-Za-z_]+\]|</?[a-z|_]+>")
_SPACE_MARKERS = ("Ġ", "▁")  # byte-level BPE and SentencePiece mark the space before a word
_NO_SPACE_BEFORE = frozenset(".,;:!?%)]}'\u2019-/")
_NO_SPACE_AFTER = frozenset("([{'\u2019-/$#")


@dataclass(frozen=True)
class DisplayToken:
    """A token in readable form.

    Attributes:
        text: readable text of the token.
        space_before: True if a space separates it from the token before.
        special: True for special tokens such as [CLS].
    """

    text: str
    space_before: bool
    special: bool


def from_offsets(tokens: Sequence[str], text: str, offsets: Sequence[Sequence[int]]) -> list[DisplayToken]:
    """Cut the original text at the character offsets of a fast tokenizer.

    Args:
        tokens: one per token; shown where a special token has no text of its own.
        text: the original text.
        offsets: ``[start, end)`` of every token in the text, equal numbers for special tokens.
    """
    shown: list[DisplayToken] = []
    last_end = 0
    for token, (start, end) in zip(tokens, offsets, strict=True):
        if start == end:
            shown.append(DisplayToken(token, True, True))
            continue
        after_special = bool(shown) and shown[-1].special
        space = after_special or start > last_end or text[start].isspace()  # BPE offsets may include the space
        shown.append(DisplayToken(text[start:end].strip(), space, False))
        last_end = end
    return shown


def detokenize(tokens: Sequence[str]) -> list[DisplayToken]:
    """Return WordPiece, byte-level BPE, SentencePiece or whole-word tokens in readable form, one for one.

    Serves where the original text is not at hand; spaces around punctuation are guessed for WordPiece.
    """
    marker = next((mark for mark in _SPACE_MARKERS if any(token.startswith(mark) for token in tokens)), None)
    shown: list[DisplayToken] = []
    for index, token in enumerate(tokens):
        if _SPECIAL.fullmatch(token):
            shown.append(DisplayToken(token, True, True))
        elif marker is not None:
            text = token.removeprefix(marker)
            decoded = ByteLevel().decode([text]) if marker == "Ġ" else text
            shown.append(DisplayToken(decoded, token.startswith(marker), False))
        elif token.startswith("##") and len(token) > 2:
            shown.append(DisplayToken(token[2:], False, False))
        else:
            attached = token in _NO_SPACE_BEFORE or (index > 0 and tokens[index - 1] in _NO_SPACE_AFTER)
            shown.append(DisplayToken(token, not attached, False))
    return shown
