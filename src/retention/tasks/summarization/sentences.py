"""Split scientific articles into sentences by rules, also lower-cased text; needs no model and no downloaded data."""

from __future__ import annotations

import re

# Words after which a full stop seldom ends a sentence; the rule adds single letters (initials, genus names).
ABBREVIATIONS = frozenset(
    ["al", "approx", "ca", "cf", "cfr", "dr", "e.g", "eg", "eq", "eqs", "fig", "figs", "i.e", "ie", "mr", "mrs", "no"]
) | frozenset(["nos", "prof", "ref", "refs", "resp", "sp", "spp", "ssp", "st", "subsp", "tab", "var", "viz", "vs"])
MIN_WORDS = 3

# End mark and closing quotes or brackets, then white space. The word before the mark decides.
_END = re.compile(r"[.?!][\"'\u201d\u2019)\]]*(?=\s)")
_OPENING = re.compile(r"[(\[/,;]")
_PLACEHOLDER = re.compile(r"<\w+>|@x\w+")
_WORD = re.compile(r"[^\W\d_]{2,}")


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences, in order, nothing left out; a line break always ends a sentence.

    Fragments of fewer than ``MIN_WORDS`` words are appended to the sentence before them in their line.
    """
    return [sentence for line in text.splitlines() for sentence in _split_line(line)]


def article_sentences(text: str) -> list[str]:
    """Split an article into sentences, without headings and stray table cells.

    A line without an end mark is left out if it has fewer than ``MIN_WORDS`` words, or letters but none in lower case.
    If nothing would be left, everything is kept.
    """
    kept = [
        sentence
        for line in text.splitlines()
        for sentence in _split_line(line)
        if _words(sentence) >= MIN_WORDS
        and (any(map(str.islower, _without_placeholders(sentence))) or _END.search(sentence + " "))
    ]
    return kept or split_sentences(text)


def _split_line(line: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    for match in _END.finditer(line):
        if not _is_abbreviation(line[start : match.start()], match.group()):
            pieces.append(" ".join(line[start : match.end()].split()))
            start = match.end()
    pieces.append(" ".join(line[start:].split()))
    sentences: list[str] = []
    for piece in filter(None, pieces):
        if sentences and _words(piece) < MIN_WORDS:
            sentences[-1] = f"{sentences[-1]} {piece}"
        else:
            sentences.append(piece)
    return sentences


def _is_abbreviation(before: str, mark: str) -> bool:
    """Return True if a full stop belongs to the word before it."""
    if not mark.startswith(".") or not before or before[-1].isspace():
        return False
    word = _OPENING.split(before[-40:].split()[-1])[-1].lower().lstrip(".")
    return word in ABBREVIATIONS or (len(word) == 1 and word.isalpha())


def _words(text: str) -> int:
    return len(_WORD.findall(_without_placeholders(text)))


def _without_placeholders(text: str) -> str:
    """Remove placeholders such as ``<cit>``."""
    return _PLACEHOLDER.sub(" ", text)
