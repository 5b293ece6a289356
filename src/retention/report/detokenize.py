"""From a tokenizer's pieces back to readable text, piece by piece."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPECIAL = re.compile(r"\[[A-Za-z_]+\]|</?[a-z|_]+>")
_MARKERS = ("Ġ", "▁")  # byte-level BPE and SentencePiece mark the space before a word
_CLOSES = frozenset(".,;:!?%)]}'\u2019-/")
_OPENS = frozenset("([{'\u2019-/$#")


@dataclass(frozen=True)
class Piece:
    """One token as shown.

    Attributes:
        text: readable form.
        spaced: whether a space goes before it.
        special: whether it is one of the model's own tokens, such as [CLS].
    """

    text: str
    spaced: bool
    special: bool


def pieces(tokens: list[str]) -> list[Piece]:
    """Readable pieces of WordPiece, byte-level BPE, SentencePiece or whole-word tokens, one per token."""
    marker = next((mark for mark in _MARKERS if any(token.startswith(mark) for token in tokens)), None)
    shown: list[Piece] = []
    for position, token in enumerate(tokens):
        if _SPECIAL.fullmatch(token):
            shown.append(Piece(token, True, True))
        elif marker is not None:
            shown.append(_marked(token, marker))
        else:
            shown.append(_whole(token, tokens[position - 1] if position else ""))
    return shown


def _marked(token: str, marker: str) -> Piece:
    spaced = token.startswith(marker)
    text = token.removeprefix(marker)
    return Piece(_from_bytes(text) if marker == "Ġ" else text, spaced, False)


def _whole(token: str, before: str) -> Piece:
    if token.startswith("##") and len(token) > 2:
        return Piece(token[2:], False, False)
    return Piece(token, token not in _CLOSES and before not in _OPENS, False)


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level BPE (Radford et al. 2019): itself where printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_letters()


def _from_bytes(text: str) -> str:
    if not all(letter in _BYTES for letter in text):
        return text
    return bytes(_BYTES[letter] for letter in text).decode("utf-8", errors="replace")
