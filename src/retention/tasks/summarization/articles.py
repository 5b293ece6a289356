"""Load articles with abstracts from a local folder or the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from retention.data.benchmark import BenchmarkData
from retention.data.table import require_column_names
from retention.errors import DataError
from retention.tasks.summarization.metrics import rouge_tokens

log = logging.getLogger(__name__)


class ArticleData(BenchmarkData):
    """Base class of summarization data; documents have the columns ``text`` and ``abstract``.

    A local folder holds ``<split>.parquet``, ``.csv`` or ``.jsonl``.
    """

    def __init__(self, *, article_column: str, abstract_column: str, **settings: Any) -> None:
        """Check the configuration; nothing is read before ``setup``.

        Args:
            article_column: column with the article.
            abstract_column: column with its abstract.
            settings: see ``BenchmarkData``.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        self._columns = {"article_column": article_column, "abstract_column": abstract_column}
        require_column_names(self._columns)

    def load(self, split: str) -> Dataset:
        """Load the documents of one split of the source: ``text`` and ``abstract``."""
        table = self.source.read(split, self._columns)
        articles, abstracts = (table.texts(column) for column in self._columns.values())
        _check_abstracts(abstracts, f"{table.source}: {self._columns['abstract_column']!r}")
        return Dataset.from_dict({"text": articles, "abstract": abstracts})


def _check_abstracts(abstracts: Sequence[str], location: str) -> None:
    """Warn of abstracts without a word that ROUGE counts; their scores and targets are always 0.

    Raises:
        DataError: no abstract has such a word.
    """
    silent = sum(not rouge_tokens(abstract) for abstract in abstracts)
    reason = "has no word of the letters a-z or digits, which are all that ROUGE counts"
    if abstracts and silent == len(abstracts):
        raise DataError(f"{location} {reason}, in any row; use texts in the Latin alphabet")
    if silent:
        log.warning("%s %s, in %d of %d rows; they score 0", location, reason, silent, len(abstracts))
