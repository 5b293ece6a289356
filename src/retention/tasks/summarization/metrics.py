"""ROUGE of summaries, computed by the rouge_score package without hub or downloaded data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

import datasets
import evaluate
from nltk.stem.porter import PorterStemmer
from rouge_score import tokenize
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from retention.tasks.metric import TaskMetric

ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")

_porter = PorterStemmer()


class _CachedStemmer:
    """Porter stemmer with a cache: stemming takes most of the time of ROUGE."""

    @staticmethod
    @lru_cache(maxsize=200_000)
    def stem(word: str) -> str:
        """Return the stem of a word."""
        return str(_porter.stem(word))


def rouge_tokens(text: str) -> list[str]:
    """Split a text into the words that ROUGE counts: lower-cased runs of a-z and digits, stemmed if longer than 3."""
    return list(tokenize.tokenize(text, _CachedStemmer))


class _StemmingTokenizer(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return rouge_tokens(text)


def rouge_scores(
    predictions: Sequence[str], references: Sequence[str], types: Sequence[str] = ROUGE_TYPES
) -> list[dict[str, float]]:
    """Compute the F-measure of each row for each of ``types``, in [0, 1]; see ``Rouge``. rougeLsum is the slowest."""
    scorer = RougeScorer(list(types), tokenizer=_StemmingTokenizer())
    pairs = zip(references, predictions, strict=True)
    scores = [scorer.score(reference, prediction) for reference, prediction in pairs]
    return [{name: float(score[name].fmeasure) for name in types} for score in scores]


class Rouge(TaskMetric):
    """F-measures ``rouge1``, ``rouge2`` and ``rougeLsum`` with stemming, mean over rows, in [0, 1].

    rougeLsum treats each line of a text as a sentence, so the sentences of both texts must be joined by newlines.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="ROUGE-1, ROUGE-2 and summary-level ROUGE-L (F-measure, stemmed), mean over rows, in [0, 1].",
            citation="",
            inputs_description="predictions and references: texts with one sentence per line, equally many",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str], **_: Any) -> dict[str, float]:
        scores = rouge_scores(predictions, references)
        return {name: fmean(score[name] for score in scores) for name in ROUGE_TYPES}
