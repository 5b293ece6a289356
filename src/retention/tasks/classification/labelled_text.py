"""Base class of data sets of (text, class) rows, their batches, and class names stored beside local files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retention.data.base import RetentionData
from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.encoding import encode_texts
from retention.data.json_files import read_json, require_valid_unicode
from retention.data.loading import Collate
from retention.errors import DataError, require

LABELS_FILE = "labels.json"


@dataclass(frozen=True)
class LabelledCollate:
    """Pad labelled rows; adds ``labels`` [B] and ``index`` [B], both long."""

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        batch["labels"] = integer_column(rows, "label")
        batch["index"] = integer_column(rows, "index")
        return batch


class LabelledTextData(RetentionData):
    """Base class of data modules whose ``read`` gives the columns ``text`` and ``label`` (0-based class)."""

    def __init__(self, *, label_names: Sequence[str], **settings: Any) -> None:
        """Keep the class names, in label order.

        Args:
            label_names: class names in label order.
            settings: see the base class.

        Raises:
            ConfigError: an argument is out of range.
        """
        super().__init__(**settings)
        message = f"must be a list of at least 2 different names, in label order, got {label_names!r}"
        require(_are_label_names(label_names), "label_names", message)
        self.label_names: tuple[str, ...] = tuple(label_names)
        self._label_order_from: str | None = None

    @property
    def num_labels(self) -> int:
        """Return the number of classes."""
        return len(self.label_names)

    def use_label_order(self, names: Sequence[str], checkpoint: str) -> None:
        """Number the classes as a trained model does; call it before ``setup``.

        Args:
            names: the model's class names, in label order.
            checkpoint: checkpoint of the model, for messages.

        Raises:
            DataError: the model has other classes, or another model of this run numbers them differently.
        """
        current, trained = list(self.label_names), list(names)
        if set(current) != set(trained):
            raise DataError(
                f"{self.name}: the classes of the rows are {current}, those of {checkpoint} are {trained}; "
                f"use its class names in {LABELS_FILE} of data.dir, or in task.data.label_names"
            )
        if self._label_order_from is not None and current != trained:
            raise DataError(
                f"{self.name}: the classes are {current} in {self._label_order_from} and {trained} in {checkpoint}; "
                "use models with the same label order"
            )
        self.label_names, self._label_order_from = tuple(names), checkpoint

    def head(self) -> dict[str, Any]:
        """Return the number of classes, as an argument of the head."""
        return {"num_labels": self.num_labels}

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return token rows of the texts, with ``label`` and ``index``."""
        encoded = encode_texts(self.tokenizer, documents["text"], self.settings.max_length)
        return {**encoded, "label": documents["label"], "index": indices}

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token."""
        return LabelledCollate(int(self.tokenizer.pad_token_id))


def read_label_names(directory: str | None) -> tuple[str, ...] | None:
    """Return the class names in ``labels.json`` of a folder, in label order; None if there is no such file.

    A missing folder is reported later, when its rows are read.

    Raises:
        DataError: the file is no list of at least 2 different names.
    """
    path = Path(directory).expanduser() / LABELS_FILE if directory is not None else None
    if path is None or not path.is_file():
        return None
    names = read_json(path)
    if not _are_label_names(names):
        raise DataError(
            f"{path}: must be a list of at least 2 different class names, in label order, got {names!r:.80}"
        )
    require_valid_unicode(names, str(path))
    return tuple(names)


def _are_label_names(names: Any) -> bool:
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    return (
        is_list and len(names) >= 2 and all(isinstance(n, str) and n for n in names) and len(set(names)) == len(names)
    )
