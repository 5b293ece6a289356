"""Where rows come from: a local folder, or a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from retention.data.local_files import find_split_file, read_file
from retention.data.table import RawTable, require_columns
from retention.errors import Checks, DataError


@dataclass(frozen=True)
class Source:
    """A local folder, or else a hub data set.

    Attributes:
        dir: folder with ``<split>.parquet``, ``.csv`` or ``.jsonl``; goes before ``hub``.
        hub: ``{path, name, revision}`` of a hub data set, the last two optional; None = local only.
    """

    dir: str | None
    hub: Mapping[str, Any] | None

    def check(self, checks: Checks) -> None:
        """Record what is wrong with the source."""
        checks.require(
            self.dir is None or (isinstance(self.dir, str) and bool(self.dir)),
            "dir",
            f"must be a folder or null, got {self.dir!r}",
        )
        if self.hub is None:
            checks.require(self.dir is not None, "dir", "must be set, there is no hub data set; pass data.dir=<folder>")
            return
        known = isinstance(self.hub, Mapping) and set(self.hub) <= {"path", "name", "revision"}
        checks.require(
            known and isinstance(self.hub.get("path"), str) and bool(self.hub["path"]),
            "hub",
            f"must be null or give path and, if needed, name and revision, got {self.hub!r}",
        )

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
        return _read_hub(self.hub, split, columns)


def _read_hub(hub: Mapping[str, Any], split: str, columns: dict[str, str]) -> RawTable:
    path, name = hub["path"], hub.get("name")
    source = f"hub data set {path}{f' ({name})' if name else ''}, split {split}"
    try:
        rows = datasets.load_dataset(path, name, split=split, revision=hub.get("revision"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source}: cannot be loaded ({error}); without access to the hub pass data.dir=<folder with "
            f"{split}.parquet, .csv or .jsonl>"
        ) from error
    require_columns(source, rows.column_names, columns)
    if len(rows) == 0:
        raise DataError(f"{source}: has no rows")
    values = {column: rows[column][:] for column in columns.values()}
    return RawTable(source, "row", range(1, len(rows) + 1), values)
