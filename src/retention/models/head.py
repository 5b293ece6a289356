"""Provide the base class of task heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retention.core.flops import EncoderShape
from retention.engine import encoder_of
from retention.engine.adapters import adapter_for
from retention.models.encoded import Batch, Encoded

Columns = dict[str, list[Any]]  # evaluation rows, one list per column; ``index`` numbers the rows of the split


class Head(nn.Module, ABC):
    """Base class of task heads: from encoder states to logits, losses, metrics and predictions.

    A head is built as ``HeadClass(encoder=..., **data.head(), **settings)``: the encoder tells the hidden size (and
    gives its decoder to heads that write text), the data module the number of classes and the like, the settings come
    from the task's yaml file.

    Attributes:
        fixed_width: True if the logits of a sequence have the same shape in every batch; False if it depends on the
            longest sequence of the batch.
        metric_names: names of the metrics that ``task.monitor`` may name, which is checked before training; empty =
            known only after an evaluation.
        loads: part of the pretrained model that the head is built for: ``encoder``; ``encoder_decoder`` for heads that
            write text; ``classifier`` for the trained head of a sequence classifier.
        starts_trained: True if the head needs no training, so that a pretrained model can be the teacher as it is.
        compares_with_teacher: True if the task has no labels: the loss is distillation alone, and evaluation batches
            have the teacher's logits of their rows under ``teacher_logits``.
        loss_settings: settings that the logits do not depend on.
    """

    fixed_width: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = ()
    loads: ClassVar[str] = "encoder"
    starts_trained: ClassVar[bool] = False
    compares_with_teacher: ClassVar[bool] = False
    loss_settings: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def check_settings() -> None:
        """Raise ``ConfigError`` if a setting of the task's yaml file is out of range.

        A head with settings overrides this with its own keyword arguments; they are checked before any data or weights
        are loaded.
        """

    def write_files(self, folder: Path) -> None:
        """Write what the head needs besides its weights; by default nothing.

        Args:
            folder: of the run, with the encoder's configuration and the tokenizer.
        """

    @abstractmethod
    def logits(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Compute the output of the head."""

    def pooled(self, encoded: Encoded) -> Tensor | None:
        """Compute the state per sequence that the logits are read from, [B, D]; None if the head reads every token."""
        return None

    @property
    def pools(self) -> bool:
        """Return True if the head has a pooled state."""
        return type(self).pooled is not Head.pooled

    def protected(self, batch: Batch) -> Tensor:
        """Return the tokens that are never removed, [B, T] bool; by default those that the data module marks."""
        protected_mask: Tensor = batch["protected_mask"]
        return protected_mask

    def pruned_spans(self, batch: Batch) -> Tensor | None:
        """Return the span of each token, [B, T] long, if whole spans are kept or pruned; None = single tokens."""
        return None

    @property
    def prunes_spans(self) -> bool:
        """Return True if ``pruned_spans`` gives spans; the policy must support them."""
        return False

    def logit_rows(self, logits: Tensor, batch: Batch) -> list[Tensor] | None:
        """Return the logits of each sequence as a vector that the rest of the batch has no part in.

        A teacher keeps these vectors, so that it sees each sequence once. By default the rows of logits of fixed width,
        [B, C]; None = logits are not kept, and the teacher computes them in every step.
        """
        return list(logits) if self.fixed_width and logits.dim() == 2 else None

    def logits_of_rows(self, rows: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the logits of a batch from the vectors of ``logit_rows``; by default they are stacked.

        Args:
            rows: one vector per sequence, on the CPU.
            batch: that the logits are for.
        """
        return torch.stack(list(rows))

    @abstractmethod
    def task_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the loss of the task, a scalar."""

    @abstractmethod
    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Compute the loss against the teacher's logits, a scalar."""

    @abstractmethod
    def confidence(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the log-probability of the prediction, summed over the batch; its gradient is the saliency.

        Returns:
            A scalar; or [K] scalars, whose saliency is the root mean square of theirs.
        """

    @property
    def saliency_settings(self) -> str:
        """Return what the saliency depends on besides the outputs, as part of a file name; empty = nothing."""
        return ""

    def predictions(self, logits: Tensor) -> Tensor | None:
        """Return the predicted class per sequence, [B] long or [B, C] bool; None for tasks without classes."""
        return None

    @abstractmethod
    def eval_rows(self, logits: Tensor, encoded: Encoded, batch: Batch) -> Columns:
        """Return what one evaluation batch contributes to the metrics, as plain values in equally long columns.

        The column ``index`` is required: a row that two batches hold counts once.
        """

    @abstractmethod
    def compute_metrics(self, rows: Columns, stage: str = "test") -> dict[str, float]:
        """Compute the metrics of all evaluation rows, the main metric first.

        Args:
            rows: the merged ``eval_rows`` of all batches and ranks.
            stage: split that was evaluated, ``val`` or ``test``.
        """

    def constant_baselines(self, rows: Columns) -> dict[str, float]:
        """Compute the metrics of baselines without a model on the same rows; logged beside the test metrics."""
        return {}

    def prediction_rows(self, rows: Columns) -> list[dict[str, Any]]:
        """Return one JSON object per test row for the file of predictions.

        A ``score`` in [0, 1] is the quality of that row; paired comparisons between runs use it.
        """
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def encoder_shape(model: nn.Module) -> EncoderShape:
    """Return the dimensions of an encoder, or of the encoder of an encoder-decoder."""
    config: Any = encoder_of(model).config
    return adapter_for(config.model_type).shape(config)
