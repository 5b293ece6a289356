"""Where rows come from: a local folder, or a data set on the Hugging Face hub, and what they may be called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from retention.data.local_files import READERS, file_choice, find_split_file, read_file
from retention.data.table import RawTable, require_columns
from retention.errors import Checks, DataError


@dataclass(frozen=True)
class Source:
    """A local folder, or else a hub data set.

    Attributes:
        dir: folder with ``<split>.parquet``, ``.csv`` or ``.jsonl``; goes before ``hub``.
        hub: ``{path, name, revision}`` of a hub data set, the last two optional; None = local only.
        note: what the files of ``dir`` are, as a reader of results should see it; None = ``local files: <folder>``.
    """

    dir: str | None
    hub: Mapping[str, Any] | None
    note: str | None = None

    def check(self, checks: Checks) -> None:
        """Record what is wrong with the source."""
        checks.require(
            self.dir is None or (isinstance(self.dir, str) and bool(self.dir)),
            "dir",
            f"must be a folder or null, got {self.dir!r}",
        )
        noted = self.note is None or (isinstance(self.note, str) and bool(self.note.strip()))
        checks.require(noted, "local_note", f"must be a text or null, got {self.note!r}")
        if self.hub is None:
            checks.require(self.dir is not None, "dir", "must be set, there is no hub data set; pass data.dir=<folder>")
            return
        known = isinstance(self.hub, Mapping) and set(self.hub) <= {"path", "name", "revision"}
        checks.require(
            known and isinstance(self.hub.get("path"), str) and bool(self.hub["path"]),
            "hub",
            f"must be null or give path and, if needed, name and revision, got {self.hub!r}",
        )

    def called(self, benchmark: str) -> str:
        """What records call the rows: ``benchmark`` is the hub data set; local files may be anything."""
        if self.dir is None:
            return benchmark
        return self.note or f"local files: {Path(self.dir).expanduser().resolve().name}"

    def read(self, split: str, columns: dict[str, str]) -> RawTable:
        """Read some columns of one split.

        Args:
            split: name of the split in the source.
            columns: config key -> column to read.

        Raises:
            DataError: nothing readable is there; the message names the place and the remedy.
        """
        if self.dir is not None:
            return read_file(find_split_file(self.dir, split), columns)
        if self.hub is None:
            raise DataError("no data: pass data.dir=<folder>")
        place, rows = load_hub(self.hub, split, columns)
        values = {column: rows[column][:] for column in columns.values()}
        return RawTable(place, "row", range(1, len(rows) + 1), values)


def load_hub(
    hub: Mapping[str, Any], split: str, columns: dict[str, str], suffixes: Iterable[str] = READERS
) -> tuple[str, Dataset]:
    """One split of a hub data set, and its name for messages.

    Args:
        hub: see ``Source``.
        split: name of the split.
        columns: config key -> column that must be there.
        suffixes: of the local files that could stand in its place, for the message.

    Raises:
        DataError: it cannot be loaded, lacks a column, or has no rows.
    """
    path, name = hub["path"], hub.get("name")
    place = f"hub data set {path}{f' ({name})' if name else ''}, split {split}"
    try:
        rows = datasets.load_dataset(path, name, split=split, revision=hub.get("revision"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{place}: cannot be loaded ({error}); without access to the hub pass data.dir=<folder with "
            f"{file_choice(split, suffixes)}>"
        ) from error
    require_columns(place, rows.column_names, columns)
    if len(rows) == 0:
        raise DataError(f"{place}: has no rows")
    return place, rows
