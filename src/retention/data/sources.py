"""Sources of rows: a local folder, or a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from retention.data.local_files import READERS, find_split_file, list_file_names, read_file
from retention.data.settings import require_provenance
from retention.data.table import RawTable, require_columns
from retention.errors import DataError, require


@dataclass(frozen=True)
class Source:
    """A local folder or, without one, a hub data set.

    Attributes:
        dir: folder with ``<split>.parquet``, ``.csv`` or ``.jsonl``; takes precedence over ``hub``.
        hub: ``{path, name, revision}`` of a hub data set, the last two optional; None = local only.
        local_note: description of the files of ``dir`` in records; None = ``local files: <folder>``.
        local_provenance: kind of the files of ``dir``, one of ``settings.PROVENANCES``; None = not declared.

    Raises:
        ConfigError: there is no source, or a setting is malformed.
    """

    dir: str | None
    hub: Mapping[str, Any] | None
    local_note: str | None = None
    local_provenance: str | None = None

    def __post_init__(self) -> None:
        is_folder = self.dir is None or (isinstance(self.dir, str) and bool(self.dir))
        require(is_folder, "dir", f"must be a folder or null, got {self.dir!r}")
        is_note = self.local_note is None or (isinstance(self.local_note, str) and bool(self.local_note.strip()))
        require(is_note, "local_note", f"must be a text or null, got {self.local_note!r}")
        if self.local_provenance is not None:
            require_provenance("local_provenance", self.local_provenance)
            message = f"describes local files, got {self.local_provenance!r} without data.dir; set data.dir or use null"
            require(self.dir is not None, "local_provenance", message)
        if self.hub is None:
            require(self.dir is not None, "dir", "must be set, there is no hub data set; pass data.dir=<folder>")
            return
        keys_exist = isinstance(self.hub, Mapping) and set(self.hub) <= {"path", "name", "revision"}
        require(
            keys_exist and isinstance(self.hub.get("path"), str) and bool(self.hub["path"]),
            "hub",
            f"must be null or give path and, if needed, name and revision, got {self.hub!r}",
        )

    def describe(self, hub_note: str) -> str:
        """Return the description of the rows for records: ``hub_note``, or a name of the local files."""
        if self.dir is None:
            return hub_note
        return self.local_note or f"local files: {Path(self.dir).expanduser().resolve().name}"

    def read(self, split: str, columns: dict[str, str]) -> RawTable:
        """Read some columns of one split.

        Args:
            split: name of the split in the source.
            columns: config key -> column to read.

        Raises:
            DataError: the split cannot be read; the message names the source and the remedy.
        """
        if self.dir is not None:
            return read_file(find_split_file(self.dir, split), columns)
        if self.hub is None:
            raise DataError("no data: pass data.dir=<folder>")
        name, rows = load_hub(self.hub, split, columns)
        values = {column: rows[column][:] for column in columns.values()}
        return RawTable(name, "row", range(1, len(rows) + 1), values)


def load_hub(
    hub: Mapping[str, Any], split: str, columns: dict[str, str], suffixes: Iterable[str] = READERS
) -> tuple[str, Dataset]:
    """Load one split of a hub data set.

    Args:
        hub: see ``Source``.
        split: name of the split.
        columns: config key -> required column.
        suffixes: suffixes of local files that could be used instead, for the message.

    Returns:
        A name of the split for messages, and its rows.

    Raises:
        DataError: it cannot be loaded, lacks a column, or has no rows.
    """
    path, name = hub["path"], hub.get("name")
    source = f"hub data set {path}{f' ({name})' if name else ''}, split {split}"
    try:
        rows = datasets.load_dataset(path, name, split=split, revision=hub.get("revision"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source}: cannot be loaded ({error}); without access to the hub pass data.dir=<folder with "
            f"{list_file_names(split, suffixes)}>"
        ) from error
    require_columns(source, rows.column_names, columns)
    if len(rows) == 0:
        raise DataError(f"{source}: has no rows")
    return source, rows
