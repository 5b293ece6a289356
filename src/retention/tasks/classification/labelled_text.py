"""Data sets of (text, class) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retention.data.base import RetentionData
from retention.data.batching import Batch, Row, pad_inputs, whole_numbers
from retention.data.encoding import encode_texts
from retention.data.loading import Collate
from retention.errors import Checks


@dataclass(frozen=True)
class LabelledCollate:
    """Pads labelled rows; adds ``labels`` [B] and ``index`` [B], both long."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Make one batch."""
        batch = pad_inputs(rows, self.pad_token_id)
        batch["labels"] = whole_numbers(rows, "label")
        batch["index"] = whole_numbers(rows, "index")
        return batch


class LabelledTextData(RetentionData):
    """Base of the data modules whose ``read`` gives the columns ``text`` and ``label`` (0-based class)."""

    def __init__(self, *, label_names: Sequence[str], **settings: Any) -> None:
        """Keep the class names, in label order.

        Args:
            label_names: class names in label order.
            settings: see the base class.

        Raises:
            ConfigError: everything wrong with the arguments.
        """
        self.label_names: Sequence[str] = label_names
        super().__init__(**settings)
        self.label_names = tuple(self.label_names)

    def check(self, checks: Checks) -> None:
        super().check(checks)
        _require_label_names(checks, self.label_names)

    @property
    def num_labels(self) -> int:
        """How many classes there are."""
        return len(self.label_names)

    def head(self) -> dict[str, Any]:
        return {"num_labels": self.num_labels}

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Token rows of the texts, with ``label`` and ``index``."""
        encoded = encode_texts(self.tokenizer, documents["text"], self.settings.max_length)
        return {**encoded, "label": documents["label"], "index": indices}

    def collator(self) -> Collate:
        """Pad with the tokenizer's padding token."""
        return LabelledCollate(int(self.tokenizer.pad_token_id))


def _require_label_names(checks: Checks, names: Any) -> None:
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    checks.require(
        listed and len(names) >= 2 and all(isinstance(n, str) and n for n in names) and len(set(names)) == len(names),
        "label_names",
        f"must be a list of at least 2 different names, in label order, got {names!r}",
    )
