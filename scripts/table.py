"""Print the quality table of result records: ``python scripts/table.py results/quality/*.jsonl``."""

from __future__ import annotations

import sys

from retention.analysis.table import quality_table
from retention.errors import RetentionError
from retention.records import read_records


def main(paths: list[str]) -> int:
    """Print one table over all files; returns the exit status."""
    if not paths:
        print("usage: python scripts/table.py RECORDS.jsonl ...", file=sys.stderr)
        return 2
    try:
        print(quality_table(read_records(paths)))
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
