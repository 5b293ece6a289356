"""Build the tables of finished runs of any kind, and print them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retention.errors import RetentionError
from retention.records import Quality, Record, Validation, read_records
from retention.records.run_folders import folder_records
from retention.report.decoding_table import decoding_table
from retention.report.details import detail_table
from retention.report.grouping import as_test_rows, fill_training_rows, left_out_line
from retention.report.quality_table import quality_table


def run_tables(records: Sequence[Record]) -> str:
    """Return the Markdown tables of runs: those of decoders, of encoders on test rows, and on validation rows.

    Args:
        records: result records.

    Raises:
        DataError: there is no record of a run, or one cannot be used.
    """
    records = fill_training_rows(records)
    tables = [table] if (table := decoding_table(records)) else []
    validated = [as_test_rows(record) for record in records if record["kind"] == Validation.kind]
    if any(record["kind"] == Quality.kind for record in records) or not (tables or validated):
        tables.append(_quality(records))
    if validated:
        tables.append(f"Scores on validation rows:\n\n{_quality(validated)}")
    return "\n".join(tables)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of run folders, sweep folders and record files; return the exit status."""
    parser = argparse.ArgumentParser(prog="retention report", description="Print the tables of finished runs.")
    names = "run folders, folders with run folders in them (a sweep), record files (.jsonl) or single records"
    parser.add_argument("paths", type=Path, nargs="+", help=names)
    parser.add_argument("--details", action="store_true", help="also print every metric that was measured")
    arguments = parser.parse_args(argv)
    try:
        records = [
            record
            for path in arguments.paths
            for record in (folder_records(path) if path.is_dir() else read_records([path]))
        ]
        print(run_tables(records))
        if arguments.details:
            print(detail_table(records))
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _quality(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the quality table, with a line about runs that it leaves out although their configuration differs."""
    table, line = quality_table(records), left_out_line(records)
    return f"{table}{line}\n" if line else table
