"""Read the records in the folders of runs and of sweeps."""

from __future__ import annotations

from pathlib import Path

from retention.errors import DataError
from retention.records.files import read_records
from retention.records.plain import Record

RECORD = "record.json"  # written last
RESULTS = "results.jsonl"  # all records of a run that has several; the last one is that of record.json
VALIDATION_RECORD = "validation.json"  # the same with evaluate=validation


def run_records(file: Path) -> list[Record]:
    """Return the records of a finished run, the main one last.

    Args:
        file: ``record.json``, or ``validation.json``, of its folder.

    Raises:
        DataError: a file cannot be read.
    """
    several = file.with_name(RESULTS)
    return read_records([several if several.exists() else file])


def nested_records(folder: Path) -> list[Record]:
    """Return the records of all run folders in a folder, at any depth, such as those of a sweep.

    Raises:
        DataError: a record cannot be read.
    """
    files = sorted(file for name in (RECORD, VALIDATION_RECORD) for file in folder.rglob(name))
    return [record for file in files for record in run_records(file)]


def folder_records(folder: Path) -> list[Record]:
    """Return the records of a run folder and of its baselines, or those of all run folders in another folder.

    Raises:
        DataError: there is no record, or one cannot be read.
    """
    records = nested_records(folder)
    if not records:
        raise DataError(
            f"{folder}: holds no {RECORD}, and no folder in it does; give the folder of a finished run or of a sweep, "
            "or a file of records (.jsonl)"
        )
    return records
