"""Load texts without labels from one file, and hold some of them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset

from retention.data.batching import Batch, EncodedRow, integer_column, pad_inputs
from retention.data.benchmark import BenchmarkData
from retention.data.encoding import encode_texts
from retention.data.loading import Collate
from retention.data.local_files import read_file
from retention.data.settings import require_count
from retention.data.splits import Split, draw_rows, hold_out
from retention.data.table import RawTable, require_column_names
from retention.errors import DataError, require

Row = TypeVar("Row")

MIN_HELD_OUT = 3  # a rank correlation of pairs needs three rows
_ROLES = {"train": "train", "val": "val", "test": "test"}  # parts of the same file, see ``TextData.read``


@dataclass(frozen=True)
class TextCollate:
    """Pad rows of tokens; adds ``index`` [B] long."""

    pad_token_id: int

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Build one batch."""
        return {**pad_inputs(rows, self.pad_token_id), "index": integer_column(rows, "index")}


class TextData(BenchmarkData):
    """Texts of one file. Held-out texts are the same for every seed and are never trained on.

    A text that occurs several times counts once, so that no held-out text is trained on in another row.
    """

    def __init__(
        self,
        *,
        texts: str | None,
        text_column: str,
        val_size: int,
        test_size: int | None,
        **settings: Any,
    ) -> None:
        """Check the configuration; the file is not read before ``setup``.

        Args:
            texts: file: ``.txt`` = one text per line (blank lines are skipped); ``.jsonl``, ``.jsonl.gz``,
                ``.parquet``, ``.csv`` or ``.tsv`` = one text per row.
            text_column: column with the text; not used for ``.txt``.
            val_size: held-out texts that are scored during training.
            test_size: held-out texts that are scored at the end; None = as many as ``val_size``.
            settings: see ``BenchmarkData``, without ``hub``, ``dir`` and ``splits``.

        Raises:
            ConfigError: an argument is out of range.
        """
        message = "is required: the file of texts to train on (.txt, .jsonl, .parquet, .csv); pass texts=<file>"
        require(isinstance(texts, str) and bool(texts.strip()), "texts", message)
        super().__init__(
            hub=None,
            dir=texts,
            splits=_ROLES,
            val_size=val_size,
            test_size=val_size if test_size is None else test_size,
            **settings,
        )
        require_count("val_size", val_size, low=MIN_HELD_OUT)
        require_count("test_size", self.plan.test_size, low=MIN_HELD_OUT)
        self.columns = {"text_column": text_column}
        require_column_names(self.columns)
        self._repeated = 0

    @property
    def file(self) -> Path:
        """Return the file of texts."""
        return Path(str(self.source.dir)).expanduser()

    def data_files(self) -> list[Path]:
        """Return the file of texts, if it exists."""
        return [self.file] if self.file.is_file() else []

    def load(self, split: str) -> Dataset:
        """Load all texts of the file, each once: column ``text``."""
        del split
        texts = self.read_columns(self.columns).texts(self.columns["text_column"])
        return Dataset.from_dict({"text": self.without_repetitions(texts)})

    def read_columns(self, columns: dict[str, str]) -> RawTable:
        """Read columns of the file.

        Args:
            columns: setting that names a column -> its name.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        if not self.file.is_file():
            reason = "is a folder" if self.file.is_dir() else "no such file"
            raise DataError(f"{self.file}: {reason}; pass texts=<file of texts>")
        return read_file(self.file, columns)

    def without_repetitions(self, rows: Sequence[Row]) -> list[Row]:
        """Return each of the rows once, and count the others for the remarks."""
        unique = list(dict.fromkeys(rows))
        self._repeated = len(rows) - len(unique)
        return unique

    def read(self, splits: Sequence[Split]) -> dict[Split, Dataset]:
        """Read the file and divide its texts into training, validation and test rows.

        Raises:
            DataError: the file cannot be read, or has fewer texts than requested.
        """
        rest, test = hold_out(self.load("texts"), self.plan.test_size or 0, "test_size")
        train, val = hold_out(rest, self.plan.val_size or 0, "val_size")
        rows = {"val": val, "test": test}
        if "train" in splits:
            rows["train"] = draw_rows(train, self.plan.train_size, self.plan.seed, "train_size")
        return {split: rows[split] for split in splits}

    def provenance(self) -> str:
        """Return the declared kind of the texts for records; ``local`` if it is not declared."""
        return self.source.local_provenance or "local"

    def remarks(self) -> Sequence[str]:
        """Return the number of repeated texts that were left out."""
        return [f"{self._repeated} repeated texts left out"] if self._repeated else []

    def encode(self, documents: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Return token rows of the texts, with ``index``."""
        return {**encode_texts(self.tokenizer, documents["text"], self.settings.max_length), "index": indices}

    def collator(self) -> Collate:
        """Return a collator that pads with the tokenizer's padding token."""
        return TextCollate(int(self.tokenizer.pad_token_id))
