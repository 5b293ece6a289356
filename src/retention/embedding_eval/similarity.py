"""Semantic textual similarity: rank correlation of the cosine of two sentences with the judgment of persons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from retention.data.sources import Source
from retention.embedding_eval.scores import Row, Scores, by_id, paired, spearman, spearman_difference
from retention.errors import DataError
from retention.report.intervals import Estimate

_COLUMNS = {"first": "sentence1", "second": "sentence2", "score": "score"}


class SentenceSimilarity:
    """STS benchmark (Cer et al. 2017, arXiv 1708.00055); measure: Spearman correlation of the cosine, as in MTEB.

    Args:
        source: folder with ``validation`` and ``test`` (columns ``sentence1``, ``sentence2``, ``score``), or the hub
            data set ``mteb/stsbenchmark-sts``.
        split: ``validation`` or ``test``.

    Raises:
        DataError: the split cannot be read, or a score is not a number.
    """

    name = "stsb"

    def __init__(self, source: Source, split: str) -> None:
        table = source.read(split, _COLUMNS)
        self._texts = [*table.texts("sentence1"), *table.texts("sentence2")]
        self._gold: list[float] = []
        for entry, score in enumerate(table.columns["score"]):
            number = _number(score)
            if number is None:
                raise DataError(f"{table.location(entry)}: 'score' must be a number, got {score!r}; fix the row")
            self._gold.append(number)
        self._source = source.describe("STS Benchmark (mteb/stsbenchmark-sts)")

    @property
    def texts(self) -> Sequence[str]:
        """Return the first, then the second sentences."""
        return self._texts

    def describe(self) -> dict[str, Any]:
        """Return source and number of pairs."""
        return {"source": self._source, "pairs": len(self._gold)}

    def evaluate(self, embeddings: Tensor) -> Scores:
        """Compute the correlation over all pairs."""
        first, second = embeddings.float().chunk(2)
        cosine = F.cosine_similarity(first, second, dim=-1).tolist()
        rows = [
            {"id": number, "cosine": round(value, 6), "score": gold}
            for number, (value, gold) in enumerate(zip(cosine, self._gold, strict=True))
        ]
        return Scores({"stsb_spearman": spearman(cosine, self._gold)}, rows)

    def differences(self, ours: Sequence[Row], reference: Sequence[Row]) -> dict[str, Estimate]:
        """Compute the difference of the two correlations; the bootstrap resamples pairs."""
        first, second = paired(ours, reference, itemgetter("cosine"))
        gold = list(by_id(ours, itemgetter("score")).values())
        return {"stsb_spearman": spearman_difference(first, second, gold)}


def _number(value: object) -> float | None:
    """Return a finite number, also from a string, as all values of a CSV file are; None for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
