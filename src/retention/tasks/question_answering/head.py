"""Answers that are a span of the text, yes, no, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import Checks
from retention.models.encoded import Batch, Encoded
from retention.tasks.question_answering.span_search import best_spans, held_spans, span_means
from retention.training.distillation import soft_target_losses
from retention.training.module import RetentionModule

# Given the name of the stage (val, test) and all rows, returns the benchmark's metrics, the headline first.
MetricsFn = Callable[[str, Mapping[str, Sequence[Any]]], dict[str, float]]
# Given the same, returns what the head says to each question, in words.
FormatFn = Callable[[str, Mapping[str, Sequence[Any]]], list[dict[str, Any]]]

_SPAN = 0  # the answer type with a place in the text
_CLOSED = -1e4  # logit of a place that cannot be chosen; its probability is exactly 0, and float16 can hold it


class QuestionAnsweringModule(RetentionModule):
    """Answer type from the first token, start and end of a span from the tokens of the text.

    The logits of a batch are one tensor [B, T, C + 2]: the C answer types, the same at every place, and start and end
    of each original place, so that models which kept different tokens can be compared place by place. Places outside
    the text are closed. With ``dropped=forward`` a token that left early is judged by the state it left with; a
    learned offset (0 at first) says how much such a token is to be trusted, so it has no advantage by being unfinished
    and no span is lost silently. With ``dropped=cut`` a token that was removed is closed, while gates are soft its
    logits get log z.

    Metrics are those of ``judge`` and, over the gold spans of all rows, ``span_survival``: the share of those of which
    the last gate kept every token; and ``span_kept_share``: the share of gates that their tokens passed. A policy that
    does not care for answers passes as much of them as of everything. Both are 1 for a dense model.

    Args:
        num_types: C; type 0 is the span.
        judge: computes the benchmark's metrics from the rows of a stage.
        speller: puts the answers to the questions of a stage into words; None = they are not written down.
        dropout: before the linear layers, in [0, 1).
        max_answer_length: tokens of a span, >= 1.
        n_best: starts that are tried and spans that are handed to the judge, per row, >= 1.
        others: see ``RetentionModule``.

    Raises:
        ConfigError: a setting is out of range.
    """

    @staticmethod
    def check_settings(*, dropout: float = 0.1, max_answer_length: int = 64, n_best: int = 20) -> None:
        """Raise ``ConfigError`` with every setting of the head that is out of range."""
        checks = Checks()
        checks.require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")
        checks.require(max_answer_length >= 1, "max_answer_length", f"must be >= 1, got {max_answer_length}")
        checks.require(n_best >= 1, "n_best", f"must be >= 1, got {n_best}")
        checks.finish()

    def __init__(
        self,
        *,
        num_types: int,
        judge: MetricsFn,
        speller: FormatFn | None = None,
        dropout: float = 0.1,
        max_answer_length: int = 64,
        n_best: int = 20,
        **shared: Any,
    ) -> None:
        self.check_settings(dropout=dropout, max_answer_length=max_answer_length, n_best=n_best)
        super().__init__(**shared)
        self.num_types = num_types
        self.max_answer_length = max_answer_length
        self.n_best = n_best
        self.dropout = nn.Dropout(dropout)
        self.type_head = nn.Linear(self.shape.hidden_size, num_types)
        self.span_head = nn.Linear(self.shape.hidden_size, 2)
        self.left_early = nn.Parameter(torch.zeros(2))  # offset of starts and ends at tokens that did not survive
        self._judge = judge
        self._speller = speller

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[B, T, C + 2] float32."""
        states = self.dropout(encoded.hidden_states)
        spans = self.span_head(states).float()  # [B, M, 2]
        if self.retainer.dropped == "cut":
            spans = (spans + encoded.weights.clamp_min(1e-30).log().unsqueeze(-1)).masked_fill(
                (encoded.weights == 0).unsqueeze(-1), _CLOSED
            )
        width = batch["input_ids"].shape[1]
        placed = spans.new_full((len(spans), width, 2), _CLOSED)
        placed = placed.scatter(1, encoded.positions.unsqueeze(-1).expand_as(spans), spans)
        placed = placed + (~self._survived(batch)).unsqueeze(-1) * self.left_early
        places, context = torch.arange(width, device=spans.device), batch["context"]
        text = (places >= context[:, :1]) & (places < context[:, 1:])
        placed = placed.clamp_min(_CLOSED).masked_fill(~text.unsqueeze(-1), _CLOSED)
        types = self.type_head(states[:, :1]).float()
        return torch.cat([types.expand(-1, width, -1), placed], dim=-1)

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the type, plus the mean of start and end loss over the rows with a gold span in reach.

        Where a row has several gold spans, the loss is that of finding any of them (marginal likelihood).
        """
        types, starts, ends = self._parts(logits)
        labels = batch["labels"]
        type_loss = F.cross_entropy(types, labels, reduction="sum") / (labels >= 0).sum().clamp_min(1)
        first, last = batch["spans"].clamp(min=0).unbind(-1)  # [B, K]
        reachable = (starts.gather(1, first) > _CLOSED / 2) & (ends.gather(1, last) > _CLOSED / 2)
        reachable = reachable & (batch["spans"][..., 0] >= 0)
        joint = F.log_softmax(starts, -1).gather(1, first) + F.log_softmax(ends, -1).gather(1, last)
        rows = reachable.any(1)
        found = joint[rows].masked_fill(~reachable[rows], -torch.inf).logsumexp(1)
        loss: Tensor = type_loss - found.sum() / (2 * rows.sum().clamp_min(1))
        return loss

    def distillation_loss(self, logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Soft targets of the type, and of start and end over the places open in both.

        A row counts for start and end as much as the teacher believes that its answer is a span.
        """
        temperature = self.settings.distill.temperature
        types, *places = self._parts(logits)
        teacher_types, *teacher_places = self._parts(teacher)
        loss = soft_target_losses(types, teacher_types, temperature).mean()
        belief = teacher_types.softmax(-1)[:, _SPAN]
        for own, taught in zip(places, teacher_places, strict=True):
            shut = (own <= _CLOSED / 2) | (taught <= _CLOSED / 2)
            own, taught = own.masked_fill(shut, _CLOSED), taught.masked_fill(shut, _CLOSED)
            losses = soft_target_losses(own, taught, temperature)
            loss = loss + 0.5 * (belief * losses).sum() / belief.sum().clamp_min(1.0)
        return loss

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Log-probability of the likeliest type and, where it is a span, of its likeliest start and end."""
        types, starts, ends = self._parts(logits)
        spans = F.log_softmax(starts, -1).amax(-1) + F.log_softmax(ends, -1).amax(-1)
        likeliest = F.log_softmax(types, -1).max(-1)
        return (likeliest.values + torch.where(likeliest.indices == _SPAN, spans, 0.0)).sum()

    def collect(self, logits: Tensor, batch: Batch) -> dict[str, list[Any]]:
        types, starts, ends = self._parts(logits)
        self.last_predictions = types.argmax(-1)
        places, scores = best_spans(_open_log_probs(starts), _open_log_probs(ends), self.n_best, self.max_answer_length)
        places = places + batch["shift"][:, None, None]
        spans = [
            [(first, last, score) for (first, last), score in zip(row, row_scores, strict=True) if score > _CLOSED / 2]
            for row, row_scores in zip(places.tolist(), scores.tolist(), strict=True)
        ]
        return {
            "index": batch["index"].tolist(),
            "question": batch["question"].tolist(),
            "types": F.log_softmax(types, -1).tolist(),
            "spans": spans,
            "gold": (batch["spans"][..., 0] >= 0).sum(1).tolist(),
            "passed": span_means(batch["spans"], self._passed(batch)).sum(1).tolist(),
            "survived": held_spans(batch["spans"], self._survived(batch)).sum(1).tolist(),
        }

    def score(self, rows: dict[str, list[Any]]) -> dict[str, float]:
        scores = self._judge("test" if self.trainer.testing else "val", rows)
        gold = sum(rows["gold"])
        if gold:
            survival = {"span_survival": sum(rows["survived"]) / gold, "span_kept_share": sum(rows["passed"]) / gold}
            scores = scores | survival
        return scores

    def answers(self, rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
        """What is said to each question, in the words and with the keys of the benchmark."""
        return [] if self._speller is None else self._speller("test", rows)

    def _parts(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Types [B, C], starts [B, T] and ends [B, T]."""
        return logits[:, 0, : self.num_types], logits[..., -2], logits[..., -1]

    def _passed(self, batch: Batch) -> Tensor:
        """Share of the gates that each token passed, [B, T]."""
        if self.last_report is None or not self.gated_layers:
            return torch.ones_like(batch["input_ids"], dtype=torch.float32)
        return self.last_report.depth(self.gated_layers, batch["input_ids"].shape[1]) / len(self.gated_layers)

    def _survived(self, batch: Batch) -> Tensor:
        """Tokens that the last gate kept, [B, T] bool; all of them where nothing was removed."""
        width = batch["input_ids"].shape[1]
        if self.last_report is None:
            return torch.ones_like(batch["input_ids"], dtype=torch.bool)
        return self.last_report.survived(width)


def _open_log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities of the places, -inf where closed: a text without any token has no span at all."""
    return F.log_softmax(logits, -1).masked_fill(logits <= _CLOSED / 2, -torch.inf)
