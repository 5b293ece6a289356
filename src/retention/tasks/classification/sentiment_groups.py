"""Find sentences with a negation or a contrast, on which sentiment classifiers fail more often than on others."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Negation words of Christopher Potts, Sentiment Symposium Tutorial (2011), as in nltk.sentiment.util (NLTK 3.9).
NEGATIONS = (
    *("never", "no", "nothing", "nowhere", "noone", "none", "not", "havent", "hasnt", "hadnt", "cant", "couldnt"),
    *("shouldnt", "wont", "wouldnt", "dont", "doesnt", "didnt", "isnt", "arent", "aint"),
)
# Explicit connectives of the class "Comparison" in the Penn Discourse Treebank 2.0 (Prasad et al. 2008). Left out are
# "still" and "while", which are more often no connective or a temporal one, and the rare phrases.
CONTRASTS = (
    *("although", "but", "conversely", "however", "nevertheless", "nonetheless", "though", "whereas", "yet"),
    *("by contrast", "in contrast", "on the contrary", "on the other hand"),
)
SENTIMENT_CLASSES = frozenset({"negative", "positive"})
_CONTRACTION = r"n['\u2019]t\b"  # don't, and "do n't" in tokenized text


def _pattern(words: Sequence[str], *further: str) -> re.Pattern[str]:
    whole_words = r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)"
    return re.compile("|".join((whole_words, *further)), re.IGNORECASE)


_NEGATION, _CONTRAST = _pattern(NEGATIONS, _CONTRACTION), _pattern(CONTRASTS)


def sentiment_groups(texts: Sequence[str]) -> dict[str, list[int]]:
    """Return the row numbers of texts with a negation word, with a contrast word, and with neither.

    A text with both kinds of words is in both groups.

    Args:
        texts: one per row.

    Returns:
        Row numbers, 0-based, under ``negation``, ``contrast`` and ``neither``.
    """
    negation = [row for row, text in enumerate(texts) if _NEGATION.search(text)]
    contrast = [row for row, text in enumerate(texts) if _CONTRAST.search(text)]
    either = {*negation, *contrast}
    return {
        "negation": negation,
        "contrast": contrast,
        "neither": [row for row in range(len(texts)) if row not in either],
    }
