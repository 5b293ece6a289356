"""Select the sentences of an article that make the best extract: the training target of extractive summarization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retention.tasks.summarization.metrics import rouge_tokens

_Grams = Counter[tuple[str, ...]]


def oracle_sentences(sentences: Sequence[str], abstract: Sequence[str], limit: int | None = None) -> list[int]:
    """Select sentences by greedy search (Nallapati et al. 2017).

    Each step adds the sentence that raises ROUGE-1 F + ROUGE-2 F of the extract most, the earliest of equal ones, until
    none does. Word pairs across sentence boundaries are counted but never match.

    Args:
        sentences: sentences of the article.
        abstract: sentences of the reference.
        limit: most sentences to select; None = no limit.

    Returns:
        Ascending indices of the selected sentences.
    """
    article = [rouge_tokens(sentence) for sentence in sentences]
    reference = [rouge_tokens(sentence) for sentence in abstract]
    words, pairs = (_Overlap(article, reference, length) for length in (1, 2))
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < min(len(article), len(article) if limit is None else limit):
        scores = words.scores() + pairs.scores()
        scores[chosen] = -1.0
        index = int(np.argmax(scores))
        if scores[index] <= best:
            break
        best = float(scores[index])
        chosen.append(index)
        words.take(index)
        pairs.take(index)
    return sorted(chosen)


class _Overlap:
    """N-gram overlap of an extract and the abstract, for n-grams of one length.

    Args:
        article: tokens of each of S sentences.
        reference: tokens of each sentence of the abstract, with V different n-grams.
        length: n.
    """

    def __init__(self, article: Sequence[Sequence[str]], reference: Sequence[Sequence[str]], length: int) -> None:
        reference_grams: _Grams = Counter()
        for tokens in reference:
            reference_grams.update(_grams(tokens, length))
        column = {gram: number for number, gram in enumerate(reference_grams)}
        self._counts: NDArray[np.int64] = np.zeros((len(article), len(reference_grams)), dtype=np.int64)
        for row, tokens in zip(self._counts, article, strict=True):
            for gram in _grams(tokens, length):
                if gram in column:
                    row[column[gram]] += 1
        self._words = np.array([len(tokens) for tokens in article], dtype=np.int64)
        self._missing = np.array(list(reference_grams.values()), dtype=np.int64)  # [V], not in the extract yet
        self._shorter = length - 1  # a text of w words has w - n + 1 n-grams
        self._total = max(0, sum(map(len, reference)) - self._shorter)
        self._taken = self._hits = 0

    def scores(self) -> NDArray[np.float64]:
        """Compute the F1 of the extract with each sentence added, [S]."""
        hits = self._hits + np.minimum(self._counts, self._missing).sum(1)
        sizes = np.maximum(self._taken + self._words - self._shorter, 0)
        f1: NDArray[np.float64] = 2.0 * hits / np.maximum(sizes + self._total, 1)
        return f1

    def take(self, index: int) -> None:
        """Add a sentence to the extract."""
        gained = np.minimum(self._counts[index], self._missing)
        self._missing = self._missing - gained
        self._hits += int(gained.sum())
        self._taken += int(self._words[index])


def _grams(tokens: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[shift:] for shift in range(length)), strict=False))
