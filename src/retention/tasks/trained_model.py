"""Provide the base class of trained models that are ready for use."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from retention.data.base import RetentionData
from retention.data.batching import Batch
from retention.errors import ConfigError, DataError, Problem
from retention.models.encoded import Encoded
from retention.models.retention_model import RetentionModel
from retention.policies.bases.retention_policy import RetentionPolicy
from retention.records.columns import as_rows
from retention.tasks.inference import RowResult, run_rows


@dataclass(frozen=True)
class TrainedModel:
    """Trained model in evaluation mode; ``load`` returns the subclass for its task.

    A new task offers its own subclass through a function ``trained_class`` in its package, see ``trained_class_of``.

    Attributes:
        model: encoder, policy and head.
        data: data module that turns texts into token rows; holds no documents.
    """

    # One line of Python that shows the ability of a class, for model cards.
    example: ClassVar[str] = "model.model  # the PyTorch module: encoder, policy and head"

    model: RetentionModel
    data: RetentionData

    @property
    def encoder(self) -> nn.Module:
        """Return the Hugging Face encoder with its trained weights; called directly it keeps every token."""
        return self.model.encoder

    @property
    def policy(self) -> RetentionPolicy:
        """Return the trained policy, to be used with ``retention.retain``."""
        return self.model.policy

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer of the encoder."""
        return self.data.tokenizer

    @property
    def max_length(self) -> int:
        """Return the maximum number of tokens of a text, or of a window with its question."""
        return self.data.settings.max_length

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the classes in the order of the head's outputs; empty for tasks without classes."""
        return tuple(str(name) for name in getattr(self.data, "label_names", ()))

    def _evaluated(self, rows: list[dict[str, Any]], batch_size: int) -> list[RowResult]:
        """Run encoded rows; the outputs are the head's evaluation rows."""

        def read(logits: Tensor, encoded: Encoded, batch: Batch) -> list[dict[str, Any]]:
            return as_rows(self.model.head.eval_rows(logits, encoded, batch))

        return run_rows(self.model, rows, self.data.collator(), batch_size, read)


def trained_class_of(head: nn.Module | type) -> type[TrainedModel]:
    """Return the class for models with this head, or with a head of this class.

    The package of the head's class (or of a base class of it) names it: a function ``trained_class`` in the package's
    ``__init__.py`` that returns a subclass of ``TrainedModel``. Without one it is ``TrainedModel``.
    """
    for cls in (head if isinstance(head, type) else type(head)).__mro__:
        package = sys.modules.get(cls.__module__.rpartition(".")[0])
        if (trained_class := getattr(package, "trained_class", None)) is not None:
            return cast("type[TrainedModel]", trained_class())
    return TrainedModel


def check_texts(texts: Iterable[str], name: str, *, plural: str | None = None) -> list[str]:
    """Check the texts that a method was called with, and return them as a list.

    Args:
        texts: strings in any one-dimensional container, such as a list, a NumPy array or a pandas Series.
        name: what one of them is, for messages.
        plural: name of the parameter; None = ``name`` with an s.

    Raises:
        ConfigError: ``texts`` is a single string or a table, or an element is not a string.
        DataError: a text is empty.
    """
    key = plural or f"{name}s"
    if isinstance(texts, str | bytes):
        raise ConfigError([Problem(key, f"got a single {type(texts).__name__}; pass a list of {key}")])
    one_dimensional = isinstance(texts, Iterable) and getattr(texts, "ndim", 1) == 1
    if not one_dimensional or isinstance(texts, Mapping | Set):  # of a table, only the names of its columns
        raise ConfigError([Problem(key, f"must be a list of strings, got a {type(texts).__name__}")])
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise ConfigError([Problem(f"{key}[{index}]", f"must be a string, got {type(text).__name__}")])
        if not text.strip():
            raise DataError(f"{name} {index} is empty; leave it out")
    return [str(text) for text in listed]
