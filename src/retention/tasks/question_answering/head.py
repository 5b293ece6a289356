"""Provide the head for questions whose answer is a span of the text, yes, no, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retention.errors import require
from retention.models.encoded import Batch, Encoded
from retention.models.head import Columns, Head, encoder_shape
from retention.models.soft_targets import soft_target_losses
from retention.tasks.question_answering.span_search import best_spans, complete_spans, span_mask, span_means

# Given the stage (val, test) and all rows, returns the benchmark's metrics, the main metric first.
MetricsFn = Callable[[str, Mapping[str, Sequence[Any]]], dict[str, float]]
# Given the same, returns one JSON object per question with the predicted answer as text.
FormatFn = Callable[[str, Mapping[str, Sequence[Any]]], list[dict[str, Any]]]

_SPAN = 0  # the answer type that has a start and an end
_CLOSED = -1e4  # logit of a position that cannot be chosen; its probability is exactly 0, and float16 can hold it


class QuestionAnsweringHead(Head):
    """Answer type from the first token, start and end of the answer span from the tokens of the text.

    The logits of a batch are one tensor [B, T, C + 2]: the C answer types, the same at every position, and start and
    end logits of each original position, so that models that kept different tokens can be compared. Positions outside
    the text are closed. With ``dropped=forward`` a token that left early is scored by its last state; a learned offset
    (initially 0) corrects for the layers that it missed. With ``dropped=cut`` a removed token is closed; during soft
    gating its logits get log z.

    Metrics are those of ``metrics_fn`` and, over the gold spans of all rows, ``span_survival``: the share of spans of
    which the last gate kept every token; and ``span_kept_share``: the share of gates that their tokens passed. A policy
    that ignores answers passes as much of them as of everything. ``evidence_survival`` and ``evidence_kept_share`` are
    the same for single tokens of the evidence, where it is known. All are 1 for a dense model.

    Args:
        encoder: Hugging Face encoder, for its hidden size.
        num_types: C; type 0 is the span.
        metrics_fn: computes the benchmark's metrics from the rows of a stage.
        format_fn: turns the answers of a stage into text; None = predictions are not written.
        dropout: before the linear layers, in [0, 1).
        max_answer_length: maximum length of a span in tokens, >= 1.
        n_best: number of starts that are tried and of spans per row that are passed to ``metrics_fn``, >= 1.

    Raises:
        ConfigError: a setting is out of range.
    """

    @staticmethod
    def check_settings(*, dropout: float = 0.1, max_answer_length: int = 64, n_best: int = 20) -> None:
        """Raise ``ConfigError`` if a setting is out of range."""
        require(0.0 <= dropout < 1.0, "dropout", f"must be in [0, 1), got {dropout}")
        require(max_answer_length >= 1, "max_answer_length", f"must be >= 1, got {max_answer_length}")
        require(n_best >= 1, "n_best", f"must be >= 1, got {n_best}")

    def __init__(
        self,
        *,
        encoder: nn.Module,
        num_types: int,
        metrics_fn: MetricsFn,
        format_fn: FormatFn | None = None,
        dropout: float = 0.1,
        max_answer_length: int = 64,
        n_best: int = 20,
    ) -> None:
        self.check_settings(dropout=dropout, max_answer_length=max_answer_length, n_best=n_best)
        super().__init__()
        self.num_types = num_types
        self.max_answer_length = max_answer_length
        self.n_best = n_best
        hidden_size = encoder_shape(encoder).hidden_size
        self.dropout = nn.Dropout(dropout)
        self.type_head = nn.Linear(hidden_size, num_types)
        self.span_head = nn.Linear(hidden_size, 2)
        self.dropped_offset = nn.Parameter(torch.zeros(2))  # of start and end logits, for tokens that were dropped
        self._metrics_fn = metrics_fn
        self._format_fn = format_fn

    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the logits of types, starts and ends, [B, T, C + 2] float32."""
        states = self.dropout(encoded.hidden_states)
        spans = self.span_head(states).float()  # [B, M, 2]
        # weights are 1 for all real tokens where dropped tokens are forwarded
        spans = (spans + encoded.weights.clamp_min(1e-30).log().unsqueeze(-1)).masked_fill(
            (encoded.weights == 0).unsqueeze(-1), _CLOSED
        )
        width = batch["input_ids"].shape[1]
        by_position = spans.new_full((len(spans), width, 2), _CLOSED)
        by_position = by_position.scatter(1, encoded.positions.unsqueeze(-1).expand_as(spans), spans)
        by_position = by_position + (~encoded.survived(width)).unsqueeze(-1) * self.dropped_offset
        positions, context = torch.arange(width, device=spans.device), batch["context"]
        is_text = (positions >= context[:, :1]) & (positions < context[:, 1:])
        by_position = by_position.clamp_min(_CLOSED).masked_fill(~is_text.unsqueeze(-1), _CLOSED)
        types = self.type_head(states[:, :1]).float()
        return torch.cat([types.expand(-1, width, -1), by_position], dim=-1)

    def logit_rows(self, logits: Tensor, batch: Batch) -> list[Tensor]:
        """Return types [C], starts [T] and ends [T] of each row's T real tokens, one after the other."""
        types, starts, ends = self._split(logits)
        lengths = batch["attention_mask"].sum(1).tolist()
        return [torch.cat([types[row], starts[row, :length], ends[row, :length]]) for row, length in enumerate(lengths)]

    def logits_of_rows(self, rows: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the logits [B, T, C + 2]; positions on padding are closed."""
        width = batch["input_ids"].shape[1]
        logits = rows[0].new_full((len(rows), width, self.num_types + 2), _CLOSED)
        for row, values in enumerate(rows):
            logits[row, :, : self.num_types] = values[: self.num_types]
            spans = values[self.num_types :].view(2, -1)
            logits[row, : spans.shape[1], self.num_types :] = spans.T
        return logits

    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute cross-entropy of the type, plus the mean start and end loss over the rows with a reachable gold span.

        Rows with several gold spans use the probability of any of them (marginal likelihood).
        """
        types, starts, ends = self._split(logits)
        labels = batch["labels"]
        type_loss = F.cross_entropy(types, labels, reduction="sum") / (labels >= 0).sum().clamp_min(1)
        first, last = batch["spans"].clamp(min=0).unbind(-1)  # [B, K]
        reachable = (starts.gather(1, first) > _CLOSED / 2) & (ends.gather(1, last) > _CLOSED / 2)
        reachable = reachable & (batch["spans"][..., 0] >= 0)
        joint = F.log_softmax(starts, -1).gather(1, first) + F.log_softmax(ends, -1).gather(1, last)
        rows = reachable.any(1)
        log_likelihood = joint[rows].masked_fill(~reachable[rows], -torch.inf).logsumexp(1)
        loss: Tensor = type_loss - log_likelihood.sum() / (2 * rows.sum().clamp_min(1))
        return loss

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute soft-target losses of the type, and of start and end over the positions that are open in both models.

        Start and end of a row are weighted by the teacher's probability that the answer is a span.
        """
        types, *boundaries = self._split(logits)
        teacher_types, *teacher_boundaries = self._split(teacher_logits)
        loss = soft_target_losses(types, teacher_types, temperature).mean()
        span_probability = teacher_types.softmax(-1)[:, _SPAN]
        for student, teacher in zip(boundaries, teacher_boundaries, strict=True):
            closed = (student <= _CLOSED / 2) | (teacher <= _CLOSED / 2)
            student, teacher = student.masked_fill(closed, _CLOSED), teacher.masked_fill(closed, _CLOSED)
            losses = soft_target_losses(student, teacher, temperature)
            loss = loss + 0.5 * (span_probability * losses).sum() / span_probability.sum().clamp_min(1.0)
        return loss

    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the most likely type and, for a span, of its most likely start and end."""
        types, starts, ends = self._split(logits)
        spans = F.log_softmax(starts, -1).amax(-1) + F.log_softmax(ends, -1).amax(-1)
        best = F.log_softmax(types, -1).max(-1)
        return (best.values + torch.where(best.indices == _SPAN, spans, 0.0)).sum()

    def predictions(self, logits: Tensor) -> Tensor:
        """Return the most likely answer type, [B] long."""
        return self._split(logits)[0].argmax(-1)

    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return log-probabilities of types and best spans, and how many gold spans each row has and kept."""
        types, starts, ends = self._split(logits)
        width = batch["input_ids"].shape[1]
        spans, scores = best_spans(_open_log_probs(starts), _open_log_probs(ends), self.n_best, self.max_answer_length)
        spans = spans + batch["shift"][:, None, None]
        candidates = [
            [(first, last, score) for (first, last), score in zip(row, row_scores, strict=True) if score > _CLOSED / 2]
            for row, row_scores in zip(spans.tolist(), scores.tolist(), strict=True)
        ]
        survived, passed = encoded.survived(width), _share_of_gates_passed(encoded, width)
        evidence = span_mask(batch["evidence"], width)
        return {
            "index": batch["index"].tolist(),
            "question": batch["question"].tolist(),
            "types": F.log_softmax(types, -1).tolist(),
            "spans": candidates,
            "gold": (batch["spans"][..., 0] >= 0).sum(1).tolist(),
            "passed": span_means(batch["spans"], passed).sum(1).tolist(),
            "survived": complete_spans(batch["spans"], survived).sum(1).tolist(),
            "evidence": evidence.sum(1).tolist(),
            "evidence_passed": (evidence * passed).sum(1).tolist(),
            "evidence_survived": (evidence & survived).sum(1).tolist(),
        }

    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute the benchmark's metrics and how much of known gold spans and evidence the gates kept."""
        metrics = self._metrics_fn(stage, rows)
        gold = sum(rows["gold"])
        if gold:
            survival = {"span_survival": sum(rows["survived"]) / gold, "span_kept_share": sum(rows["passed"]) / gold}
            metrics = metrics | survival
        evidence = sum(rows["evidence"])
        if evidence:
            metrics = metrics | {
                "evidence_survival": sum(rows["evidence_survived"]) / evidence,
                "evidence_kept_share": sum(rows["evidence_passed"]) / evidence,
            }
        return metrics

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return the predicted answer to each question as text, with the keys of the benchmark."""
        return [] if self._format_fn is None else self._format_fn("test", rows)

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return types [B, C], starts [B, T] and ends [B, T]."""
        return logits[:, 0, : self.num_types], logits[..., -2], logits[..., -1]


def _share_of_gates_passed(encoded: Encoded, width: int) -> Tensor:
    """Return the share of the gates that each token passed, [B, width] float; 1 without gates."""
    passed, gates = encoded.gates_passed(width), len(encoded.gated_layers)
    return passed / gates if gates else torch.ones_like(passed, dtype=torch.float32)


def _open_log_probs(logits: Tensor) -> Tensor:
    """Return log-probabilities of the positions, -inf where closed: a text without tokens has no span at all."""
    return F.log_softmax(logits, -1).masked_fill(logits <= _CLOSED / 2, -torch.inf)
