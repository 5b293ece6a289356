"""Summarize articles with a trained model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from retention.records.columns import as_columns, as_rows
from retention.tasks.inference import RowResult
from retention.tasks.summarization.extractive_head import ExtractiveSummarizationHead
from retention.tasks.trained_model import TrainedModel, check_texts


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of one article.

    Attributes:
        sentences: sentences of the summary, in order.
        chosen: indices of these sentences in the article, ascending; None for an abstractive summary.
        scores: one per sentence of the article that was read, the highest are chosen; None for an abstractive summary.
        truncated: True if the article is longer than what was read.
        keep_ratio: kept tokens / tokens of the article, mean over the gated layers, in (0, 1].
    """

    sentences: tuple[str, ...]
    chosen: tuple[int, ...] | None
    scores: tuple[float, ...] | None
    truncated: bool
    keep_ratio: float


class Summarizer(TrainedModel):
    """Trained model that summarizes articles: by their best sentences, or with a decoder in new words."""

    example: ClassVar[str] = "model.summarize([article])[0].sentences"

    def summarize(self, articles: Iterable[str], *, batch_size: int = 8) -> list[Summary]:
        """Summarize articles.

        Args:
            articles: list of articles, also a NumPy array or a pandas Series; a line break ends a sentence.
            batch_size: articles per forward pass, >= 1.

        Returns:
            One summary per article, in their order.

        Raises:
            ConfigError: ``articles`` is not a list of strings, or ``batch_size`` is below 1.
            DataError: an article is empty.
        """
        articles = check_texts(articles, "article")
        documents = {"text": articles, "abstract": [""] * len(articles)}
        rows = as_rows(self.data.encode(documents, list(range(len(articles))))) if articles else []
        results = self._evaluated(rows, batch_size)
        return [self._summary(row["truncated"], result) for row, result in zip(rows, results, strict=True)]

    def _summary(self, truncated: bool, result: RowResult) -> Summary:
        head = self.model.head
        if not isinstance(head, ExtractiveSummarizationHead):
            sentences = tuple(result.output["summary"].splitlines())
            return Summary(
                sentences=sentences, chosen=None, scores=None, truncated=truncated, keep_ratio=result.keep_ratio
            )
        [chosen] = head.chosen_sentences(as_columns([result.output]))
        return Summary(
            sentences=tuple(result.output["sentences"][index] for index in chosen),
            chosen=tuple(chosen),
            scores=tuple(result.output["scores"]),
            truncated=truncated,
            keep_ratio=result.keep_ratio,
        )
