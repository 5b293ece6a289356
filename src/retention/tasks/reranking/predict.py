"""Rerank passages with a trained model, and show the sentences that it kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from torch import Tensor

from retention.data.batching import Batch
from retention.errors import require
from retention.models.encoded import Encoded
from retention.records.columns import as_rows
from retention.tasks.inference import RowResult, run_rows
from retention.tasks.question_answering.windows import tokenize_text
from retention.tasks.summarization.sentences import split_sentences
from retention.tasks.trained_model import TrainedModel, check_texts


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Sentence of a passage.

    Attributes:
        start: first character in the passage.
        end: character after the last one.
        kept_share: share of the gates that its tokens passed, mean over the tokens, in [0, 1]; 0 if it was not read.
    """

    start: int
    end: int
    kept_share: float


@dataclass(frozen=True, kw_only=True)
class RankedPassage:
    """Passage with its score for a query.

    Attributes:
        index: position in the list of passages that was given.
        text: the passage.
        score: probability of relevance in [0, 1].
        sentences: sentences of the passage, in order.
        keep_ratio: kept tokens / tokens of query and passage, mean over the gated layers, in (0, 1].
        truncated: True if the passage is longer than what was read.
    """

    index: int
    text: str
    score: float
    sentences: tuple[Sentence, ...]
    keep_ratio: float
    truncated: bool

    def kept_sentences(self, min_share: float | None = None) -> list[str]:
        """Return the sentences whose tokens passed many gates.

        Args:
            min_share: lowest ``kept_share``; None = the mean over the sentences, so that at least one is kept.
        """
        lowest = fmean(each.kept_share for each in self.sentences) if min_share is None else min_share
        # a mean can exceed equal values by rounding
        return [self.text[each.start : each.end] for each in self.sentences if each.kept_share >= lowest - 1e-9]

    def pruned_text(self, min_share: float | None = None) -> str:
        """Return the kept sentences as one text, see ``kept_sentences``."""
        return " ".join(self.kept_sentences(min_share))


class Reranker(TrainedModel):
    """Trained cross-encoder that scores passages for a query."""

    example: ClassVar[str] = 'model.rerank("heat transfer at high speed", passages)[0].pruned_text()'

    def score(self, query: str, passages: Iterable[str], *, batch_size: int = 32) -> list[float]:
        """Return the probability that each passage is relevant, in the order of ``passages``; see ``rerank``."""
        ranked = self.rerank(query, passages, batch_size=batch_size)
        return [each.score for each in sorted(ranked, key=lambda each: each.index)]

    def rerank(self, query: str, passages: Iterable[str], *, batch_size: int = 32) -> list[RankedPassage]:
        """Score passages for a query, with real token removal, and return them by score, highest first.

        The query is never removed.

        Args:
            query: the query.
            passages: list of passages; also a NumPy array or a pandas Series.
            batch_size: passages per forward pass, >= 1.

        Raises:
            ConfigError: ``query`` is not a string, ``passages`` is not a list of strings, or ``batch_size`` is below 1.
            DataError: the query or a passage is empty.
        """
        require(isinstance(query, str), "query", f"must be one string, got {type(query).__name__}")
        check_texts([query], "query", plural="queries")
        listed = check_texts(passages, "passage")
        rows = self._rows(query, listed) if listed else []

        def read(logits: Tensor, encoded: Encoded, batch: Batch) -> list[float]:
            probabilities: list[float] = logits.float().sigmoid().squeeze(-1).tolist()
            return probabilities

        results = run_rows(self.model, rows, self.data.collator(), batch_size, read)
        ranked = [
            self._ranked(index, text, row, result)
            for index, (text, row, result) in enumerate(zip(listed, rows, results, strict=True))
        ]
        return sorted(ranked, key=lambda each: each.score, reverse=True)

    def pruned_text(self, query: str, passage: str, *, min_share: float | None = None) -> str:
        """Return the sentences of a passage that the model kept for a query, see ``RankedPassage.kept_sentences``."""
        [ranked] = self.rerank(query, [passage])
        return ranked.pruned_text(min_share)

    def _rows(self, query: str, passages: Sequence[str]) -> list[dict[str, Any]]:
        unjudged = [{"id": str(number), "text": text, "relevance": 0} for number, text in enumerate(passages)]
        rows = as_rows(self.data.encode({"text": [query], "passages": [unjudged], "highest": [1]}, [0]))
        return [{**row, "index": number} for number, row in enumerate(rows)]

    def _ranked(self, index: int, text: str, row: dict[str, Any], result: RowResult) -> RankedPassage:
        start, end = row["context"]
        tokens = tokenize_text(self.tokenizer, text)
        gates = len(self.model.gated_layers)
        shares = [depth / gates if gates else 1.0 for depth in result.depth[start:end]]
        sentences = []
        for span in sentence_spans(text):
            first, last = tokens.tokens(span) or (0, 0)
            read = shares[first:last]  # fewer than its tokens where the passage was truncated
            share = sum(read) / (last - first) if read else 0.0
            sentences.append(Sentence(start=span[0], end=span[1], kept_share=share))
        return RankedPassage(
            index=index,
            text=text,
            score=result.output,
            sentences=tuple(sentences),
            keep_ratio=result.keep_ratio,
            truncated=bool(row["truncated"]),
        )


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the characters [start, end) of each sentence of a text."""
    spans: list[tuple[int, int]] = []
    position = 0
    for sentence in split_sentences(text):
        match = re.compile(r"\s+".join(map(re.escape, sentence.split()))).search(text, position)
        if match is not None:  # always: only the white space of a sentence differs from the text
            spans.append(match.span())
            position = match.end()
    return spans
