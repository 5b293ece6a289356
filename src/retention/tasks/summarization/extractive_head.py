"""Provide the head for extractive summarization: which sentences of an article make its summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head, encoder_shape
from retention.models.soft_targets import binary_soft_target_losses
from retention.tasks.summarization.metrics import ROUGE_TYPES, Rouge, rouge_scores, rouge_tokens

SPAN_KINDS = ("tokens", "sentences")
POOLINGS = ("marker", "mean", "depth")


class ExtractiveSummarizationHead(Head):
    """One score per sentence, from its pooled state; the sentences with the highest scores, in order, are the summary.

    Training targets are the sentences of a greedy oracle; the loss is binary cross-entropy, mean over the sentences of
    an article, then over articles. Tests also score the first sentences (``lead_*``), the longest ones (``longest_*``,
    as a model that uses nothing but length would choose) and the oracle's choice (``oracle_*``) of the same articles,
    all limited like the model to the first ``max_length`` tokens.

    Args:
        encoder: Hugging Face encoder, for its hidden size.
        sentences: maximum number of sentences in a summary, k >= 1; the first k are the lead.
        pooling: ``marker`` = state of the marker token in front of the sentence (Liu and Lapata 2019, arXiv
            1908.08345); ``mean`` = mean of the states of the marker and the kept tokens of the sentence, weighted by
            their gates, for encoders that were pretrained with mean pooling; ``depth`` = the same mean, also weighted
            by the depth ratio of each token, see ``Encoded.depth_ratio``.
        spans: what is kept or pruned as a whole, ``tokens`` or ``sentences``. The tokens of a sentence then share the
            mean of their scores; the token count is still met exactly, so only the first tokens of the last sentence
            that is kept may fit. Markers are always kept.
        trigram_blocking: skip a sentence that shares three consecutive words with one that has a higher score
            (Paulus et al. 2018, arXiv 1705.04304).
        dropout: before the linear layer, in [0, 1).

    Raises:
        ConfigError: a setting is out of range.
    """

    fixed_width: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = ROUGE_TYPES

    @staticmethod
    def check_settings(
        *,
        sentences: int = 7,
        pooling: str = "marker",
        spans: str = "tokens",
        trigram_blocking: bool = False,
        dropout: float = 0.1,
    ) -> None:
        """Raise ``ConfigError`` if a setting is out of range."""
        require(sentences >= 1, "sentences", f"must be at least 1, got {sentences}")
        require(pooling in POOLINGS, "pooling", f"must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        require(spans in SPAN_KINDS, "spans", f"must be one of {', '.join(SPAN_KINDS)}, got {spans!r}")
        require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")

    def __init__(
        self,
        *,
        encoder: nn.Module,
        sentences: int = 7,
        pooling: str = "marker",
        spans: str = "tokens",
        trigram_blocking: bool = False,
        dropout: float = 0.1,
    ) -> None:
        self.check_settings(
            sentences=sentences, pooling=pooling, spans=spans, trigram_blocking=trigram_blocking, dropout=dropout
        )
        super().__init__()
        self.sentences = sentences
        self.pooling = pooling
        self.spans = spans
        self.trigram_blocking = trigram_blocking
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder_shape(encoder).hidden_size, 1))
        self.rouge = Rouge()

    @property
    def prunes_spans(self) -> bool:
        """Return True if sentences are kept or pruned as a whole."""
        return self.spans == "sentences"

    def pruned_spans(self, batch: Batch) -> Tensor | None:
        """Return the sentence of each token, [B, T] long; None if tokens are pruned individually."""
        return batch["spans"] if self.prunes_spans else None

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the score of each sentence, [B, S]; values where there is no sentence are not meaningful."""
        pool = marker_states if self.pooling == "marker" else mean_states
        read = encoded.depth_weighted() if self.pooling == "depth" else encoded
        logits: Tensor = self.output(pool(read, batch["markers"], batch["sentence_mask"])).squeeze(-1)
        return logits

    def logit_rows(self, logits: Tensor, batch: Batch) -> list[Tensor]:
        """Return the scores of each article's sentences."""
        counts = batch["sentence_mask"].sum(1).tolist()
        return [row[:count] for row, count in zip(logits, counts, strict=True)]

    def logits_of_rows(self, rows: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the scores [B, S]; 0 where there is no sentence."""
        logits = rows[0].new_zeros(batch["sentence_mask"].shape)
        for row, values in enumerate(rows):
            logits[row, : len(values)] = values
        return logits

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the binary cross-entropy, mean over the sentences of an article, then over articles."""
        losses = F.binary_cross_entropy_with_logits(logits.float(), batch["targets"], reduction="none")
        return article_mean(losses, batch["sentence_mask"])

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the binary soft-target loss, mean over the sentences of an article, then over articles."""
        losses = binary_soft_target_losses(logits, teacher_logits, temperature)
        return article_mean(losses, batch["sentence_mask"])

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the k sentences with the highest scores, summed over the batch."""
        log_probs = F.logsigmoid(logits.float()).masked_fill(~batch["sentence_mask"], -torch.inf)
        best = log_probs.topk(min(self.sentences, log_probs.shape[1]), dim=1).values
        return best.masked_fill(best == -torch.inf, 0.0).sum()

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return sentence scores, the oracle's choice, the sentences and the abstract of each article."""
        counts = batch["sentence_mask"].sum(1).tolist()
        return {
            "index": batch["index"].tolist(),
            "scores": [row[:count] for row, count in zip(logits.float().tolist(), counts, strict=True)],
            "oracle": [row.nonzero().flatten().tolist() for row in batch["targets"]],
            "sentences": batch["sentences"],
            "abstract": batch["abstract"],
        }

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute ROUGE-1, ROUGE-2 and ROUGE-Lsum of the chosen sentences."""
        return self._rouge(self.chosen_sentences(rows), rows)

    def constant_baselines(self, rows: Columns) -> dict[str, float]:
        """Compute ROUGE of the first k sentences, of the k longest, and of the oracle's choice."""
        lead = [list(range(min(self.sentences, len(sentences)))) for sentences in rows["sentences"]]
        longest = [
            select_sentences(
                [len(rouge_tokens(s)) for s in sentences], sentences, self.sentences, trigram_blocking=False
            )
            for sentences in rows["sentences"]
        ]
        return {
            f"{name}_{metric}": value
            for name, choices in (("lead", lead), ("longest", longest), ("oracle", rows["oracle"]))
            for metric, value in self._rouge(choices, rows).items()
        }

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return ``index``, indices of the ``chosen`` sentences and of the ``oracle``'s, and ROUGE-1 as ``score``."""
        choices = self.chosen_sentences(rows)
        scores = rouge_scores(self._summaries(choices, rows), rows["abstract"], ("rouge1",))
        columns = zip(rows["index"], choices, rows["oracle"], scores, strict=True)
        return [
            {"index": index, "chosen": chosen, "oracle": oracle, "score": score["rouge1"]}
            for index, chosen, oracle, score in columns
        ]

    def chosen_sentences(self, rows: Columns) -> list[list[int]]:
        """Return the chosen sentences of each evaluation row, as ascending indices."""
        return [
            select_sentences(scores, sentences, self.sentences, trigram_blocking=self.trigram_blocking)
            for scores, sentences in zip(rows["scores"], rows["sentences"], strict=True)
        ]

    def _rouge(self, choices: Sequence[Sequence[int]], rows: Columns) -> dict[str, float]:
        summaries = self._summaries(choices, rows)
        scores: dict[str, float] = self.rouge.compute(predictions=summaries, references=rows["abstract"])
        return scores

    @staticmethod
    def _summaries(choices: Sequence[Sequence[int]], rows: Columns) -> list[str]:
        """Return the summaries as text, one sentence per line."""
        pairs = zip(rows["sentences"], choices, strict=True)
        return ["\n".join(sentences[index] for index in chosen) for sentences, chosen in pairs]


def marker_states(encoded: Encoded, markers: Tensor, mask: Tensor) -> Tensor:
    """Return the states of the tokens at the original positions ``markers``, [B, S, D].

    Args:
        encoded: output of the encoder; all markers must have been kept.
        markers: [B, S] long, original positions.
        mask: [B, S] bool, True = there is a sentence; elsewhere the state is not meaningful.
    """
    num_kept = encoded.positions.shape[1]
    unused = int(encoded.positions.max()) + 1  # position of padding and of closed gates
    positions = torch.where(encoded.weights > 0, encoded.positions, unused)
    index_of = positions.new_zeros(len(positions), unused + 1)
    index_of.scatter_(1, positions, torch.arange(num_kept, device=positions.device).expand_as(positions))
    chosen = index_of.gather(1, markers).unsqueeze(-1)
    return encoded.hidden_states.gather(1, chosen.expand(-1, -1, encoded.hidden_states.shape[-1]))


def mean_states(encoded: Encoded, markers: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean state of each sentence, from its marker to the next one, weighted by ``encoded.weights``.

    Args:
        encoded: output of the encoder.
        markers: [B, S] long, original positions of the markers.
        mask: [B, S] bool, True = there is a sentence; elsewhere the state is not meaningful.

    Returns:
        [B, S, D].
    """
    started = (markers.unsqueeze(1) <= encoded.positions.unsqueeze(2)) & mask.unsqueeze(1)  # [B, M, S]
    sentence_of = started.sum(2, keepdim=True) - 1
    weights = (sentence_of == torch.arange(markers.shape[1], device=markers.device)) * encoded.weights.unsqueeze(2)
    weights = weights.to(encoded.hidden_states.dtype)
    total: Tensor = weights.transpose(1, 2) @ encoded.hidden_states
    return total / weights.sum(1).clamp_min(1e-6).unsqueeze(2)


def article_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean of [B, S] over the sentences of each article, then over articles, a scalar."""
    return ((values * mask).sum(1) / mask.sum(1).clamp_min(1)).mean()


def select_sentences(
    scores: Sequence[float], sentences: Sequence[str], count: int, *, trigram_blocking: bool
) -> list[int]:
    """Return the ``count`` sentences with the highest scores as ascending indices; the earlier one wins ties."""
    chosen: list[int] = []
    used: set[tuple[str, ...]] = set()
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        if len(chosen) == count:
            break
        if trigram_blocking:
            words = rouge_tokens(sentences[index])
            trigrams = set(zip(words, words[1:], words[2:], strict=False))
            if used & trigrams:
                continue
            used |= trigrams
        chosen.append(index)
    return sorted(chosen)
