"""Extractive summarization: which sentences of an article make its summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import Checks
from retention.models.encoded import Batch, Encoded
from retention.tasks.summarization.metrics import Rouge, rouge_scores, rouge_tokens
from retention.training.distillation import soft_decision_loss
from retention.training.module import RetentionModule

SPAN_KINDS = ("tokens", "sentences")
POOLINGS = ("marker", "mean", "depth")


class ExtractiveSummarizationModule(RetentionModule):
    """One score per sentence, from its pooled state; the best sentences, in their order, are the summary.

    Training targets are the sentences of a greedy oracle; binary cross-entropy, mean over the sentences of an article,
    then over articles. Tests also score the first sentences (``lead_*``), the longest ones (``longest_*``, what a model
    finds that has learnt nothing but length) and the oracle's choice (``oracle_*``) of the same articles, all limited
    like the model to what ``max_length`` lets it see.

    Args:
        sentences: most sentences in a summary, k >= 1; the first k are the lead.
        pooling: ``marker`` = state of the marker in front of the sentence (Liu and Lapata 2019); ``mean`` = mean of the
            states of marker and tokens that are left, weighed by their gates: for encoders that were pretrained to be
            read like this, whose markers would have to learn from few articles what to gather; ``depth`` = the same
            mean, weighed by how much of the encoder each token went through as well, see ``by_depth``.
        spans: what stays or goes as one in the encoder, ``tokens`` or ``sentences``. The tokens of a sentence then
            share one score, the mean of theirs; the count is still met exactly, so that of the last sentence that
            stays, only its first tokens may fit. Markers stay in any case.
        trigram_blocking: leave out a sentence that shares three words in a row with a better one (Paulus et al. 2018).
        dropout: before the linear layer, in [0, 1).
        others: see ``RetentionModule``.

    Raises:
        ConfigError: a setting is out of range.
    """

    fixed_width: ClassVar[bool] = False

    @staticmethod
    def check_settings(
        *,
        sentences: int = 7,
        pooling: str = "marker",
        spans: str = "tokens",
        trigram_blocking: bool = False,
        dropout: float = 0.1,
    ) -> None:
        """Raise ``ConfigError`` with every setting of the head that is out of range."""
        checks = Checks()
        checks.require(sentences >= 1, "sentences", f"must be at least 1, got {sentences}")
        checks.require(pooling in POOLINGS, "pooling", f"must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        checks.require(spans in SPAN_KINDS, "spans", f"must be one of {', '.join(SPAN_KINDS)}, got {spans!r}")
        checks.require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")
        checks.finish()

    def __init__(
        self,
        *,
        sentences: int = 7,
        pooling: str = "marker",
        spans: str = "tokens",
        trigram_blocking: bool = False,
        dropout: float = 0.1,
        **shared: Any,
    ) -> None:
        self.check_settings(
            sentences=sentences, pooling=pooling, spans=spans, trigram_blocking=trigram_blocking, dropout=dropout
        )
        super().__init__(**shared)
        self.pooling = pooling
        self.spans = spans
        self._check_policy()
        self.sentences = sentences
        self.trigram_blocking = trigram_blocking
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.shape.hidden_size, 1))
        self.rouge = Rouge()

    def _check_policy(self) -> None:
        """Raise ``ConfigError`` where the policy cannot keep sentences whole."""
        checks = Checks()
        message = f"sentences need a policy that ranks, {self.policy.name} does not; leave it at tokens"
        checks.require(self.spans == "tokens" or self.policy.groups, "task.head.spans", message)
        checks.finish()

    def encode(self, batch: Batch) -> Encoded:
        """Run the encoder with retention, of tokens or of whole sentences."""
        if self.spans == "tokens":
            return super().encode(batch)
        with self.retainer.prune_together(batch["spans"]):
            return super().encode(batch)

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[B, S]; values where there is no sentence do not matter."""
        pooled = marker_states if self.pooling == "marker" else mean_states
        read = self.depth_weighted(encoded) if self.pooling == "depth" else encoded
        logits: Tensor = self.head(pooled(read, batch["markers"], batch["sentence_mask"])).squeeze(-1)
        return logits

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits.float(), batch["targets"], reduction="none")
        return article_mean(losses, batch["sentence_mask"])

    def distillation_loss(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        losses = soft_decision_loss(logits, teacher, self.settings.distill.temperature)
        return article_mean(losses, batch["sentence_mask"])

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Log-probability of the k best sentences."""
        certain = F.logsigmoid(logits.float()).masked_fill(~batch["sentence_mask"], -torch.inf)
        best = certain.topk(min(self.sentences, certain.shape[1]), dim=1).values
        return best.masked_fill(best == -torch.inf, 0.0).sum()

    def collect(self, logits: Tensor, batch: Batch) -> dict[str, list[Any]]:
        counts = batch["sentence_mask"].sum(1).tolist()
        return {
            "index": batch["index"].tolist(),
            "scores": [row[:count] for row, count in zip(logits.float().tolist(), counts, strict=True)],
            "oracle": [row.nonzero().flatten().tolist() for row in batch["targets"]],
            "sentences": batch["sentences"],
            "abstract": batch["abstract"],
        }

    def score(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        return self._rouge(self.choices(rows), rows)

    def answers(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """``index``, numbers of the ``chosen`` sentences and the ``oracle``'s, and ROUGE-1 as the ``score``."""
        choices = self.choices(rows)
        scores = rouge_scores(self._summaries(choices, rows), rows["abstract"], ("rouge1",))
        columns = zip(rows["index"], choices, rows["oracle"], scores, strict=True)
        return [
            {"index": index, "chosen": chosen, "oracle": oracle, "score": score["rouge1"]}
            for index, chosen, oracle, score in columns
        ]

    def baselines(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        """ROUGE of the first k sentences, of the k longest, and of the oracle's choice."""
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

    def choices(self, rows: dict[str, list[Any]]) -> list[list[int]]:
        """The chosen sentences of each collected row, as ascending positions."""
        return [
            select_sentences(scores, sentences, self.sentences, trigram_blocking=self.trigram_blocking)
            for scores, sentences in zip(rows["scores"], rows["sentences"], strict=True)
        ]

    def _rouge(self, choices: Sequence[Sequence[int]], rows: dict[str, list[Any]]) -> dict[str, float]:
        summaries = self._summaries(choices, rows)
        scores: dict[str, float] = self.rouge.compute(predictions=summaries, references=rows["abstract"])
        return scores

    @staticmethod
    def _summaries(choices: Sequence[Sequence[int]], rows: dict[str, list[Any]]) -> list[str]:
        """One sentence per line."""
        pairs = zip(rows["sentences"], choices, strict=True)
        return ["\n".join(sentences[place] for place in chosen) for sentences, chosen in pairs]


def marker_states(encoded: Encoded, markers: Tensor, mask: Tensor) -> Tensor:
    """States of the tokens at original places ``markers`` [B, S], which must all have been kept: [B, S, D].

    Where ``mask`` [B, S] says that there is no sentence, the state is of no meaning.
    """
    kept = encoded.positions.shape[1]
    nowhere = int(encoded.positions.max()) + 1  # for padding and closed gates
    places = torch.where(encoded.weights > 0, encoded.positions, nowhere)
    slots = places.new_zeros(len(places), nowhere + 1)
    slots.scatter_(1, places, torch.arange(kept, device=places.device).expand_as(places))
    chosen = slots.gather(1, markers).unsqueeze(-1)
    return encoded.hidden_states.gather(1, chosen.expand(-1, -1, encoded.hidden_states.shape[-1]))


def mean_states(encoded: Encoded, markers: Tensor, mask: Tensor) -> Tensor:
    """Mean state of each sentence, from its marker to the next one, weighed by the gates: [B, S, D], as above."""
    begun = (markers.unsqueeze(1) <= encoded.positions.unsqueeze(2)) & mask.unsqueeze(1)  # [B, M, S]
    places = begun.sum(2, keepdim=True) - 1
    within = (places == torch.arange(markers.shape[1], device=markers.device)) * encoded.weights.unsqueeze(2)
    within = within.to(encoded.hidden_states.dtype)
    total: Tensor = within.transpose(1, 2) @ encoded.hidden_states
    return total / within.sum(1).clamp_min(1e-6).unsqueeze(2)


def article_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of [B, S] over the sentences of each article, then over articles, scalar."""
    return ((values * mask).sum(1) / mask.sum(1).clamp_min(1)).mean()


def select_sentences(
    scores: Sequence[float], sentences: Sequence[str], most: int, *, trigram_blocking: bool
) -> list[int]:
    """The ``most`` best sentences as ascending positions; of equal ones the earlier."""
    chosen: list[int] = []
    used: set[tuple[str, ...]] = set()
    for place in sorted(range(len(scores)), key=lambda place: (-scores[place], place)):
        if len(chosen) == most:
            break
        if trigram_blocking:
            words = rouge_tokens(sentences[place])
            trigrams = set(zip(words, words[1:], words[2:], strict=False))
            if used & trigrams:
                continue
            used |= trigrams
        chosen.append(place)
    return sorted(chosen)
