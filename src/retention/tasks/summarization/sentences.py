"""Sentences of scientific articles by a rule: works on lower-cased text, needs no model and no downloaded data."""

from __future__ import annotations

import re

# Words before a full stop that seldom ends a sentence; single letters (initials, genus names) are added by the rule.
ABBREVIATIONS = frozenset(
    ["al", "approx", "ca", "cf", "cfr", "dr", "e.g", "eg", "eq", "eqs", "fig", "figs", "i.e", "ie", "mr", "mrs", "no"]
) | frozenset(["nos", "prof", "ref", "refs", "resp", "sp", "spp", "ssp", "st", "subsp", "tab", "var", "viz", "vs"])
MIN_WORDS = 3

# The end mark and what closes behind it, then white space. The word before it is what decides.
_END = re.compile(r"[.?!][\"'\u201d\u2019)\]]*(?=\s)")
_OPENING = re.compile(r"[(\[/,;]")
_PLACEHOLDER = re.compile(r"<\w+>|@x\w+")
_WORD = re.compile(r"[^\W\d_]{2,}")


def split_sentences(text: str) -> list[str]:
    """All sentences of a text, in order, nothing left out; a line break always ends one.

    Fragments of fewer than ``MIN_WORDS`` words go with the sentence before them in their line.
    """
    return [sentence for line in text.splitlines() for sentence in _split_line(line)]


def article_sentences(text: str) -> list[str]:
    """The sentences of an article without headings and stray table cells.

    A line that is one unit without an end mark is left out if it has fewer than ``MIN_WORDS`` words or, having at
    least one letter, none in lower case. If nothing else is there, everything is kept.
    """
    kept = [
        sentence
        for line in text.splitlines()
        for sentence in _split_line(line)
        if _words(sentence) >= MIN_WORDS and (any(map(str.islower, _bare(sentence))) or _END.search(sentence + " "))
    ]
    return kept or split_sentences(text)


def _split_line(line: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    for match in _END.finditer(line):
        if not _abbreviated(line[start : match.start()], match.group()):
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


def _abbreviated(before: str, mark: str) -> bool:
    """Whether a full stop belongs to the word before it."""
    if not mark.startswith(".") or not before or before[-1].isspace():
        return False
    word = _OPENING.split(before[-40:].split()[-1])[-1].lower().lstrip(".")
    return word in ABBREVIATIONS or (len(word) == 1 and word.isalpha())


def _words(text: str) -> int:
    return len(_WORD.findall(_bare(text)))


def _bare(text: str) -> str:
    """The text without placeholders such as ``<cit>``."""
    return _PLACEHOLDER.sub(" ", text)
