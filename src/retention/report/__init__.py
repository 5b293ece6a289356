"""Turn result records and retention profiles into tables and pages; loads no model."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``retention report``; see ``retention.report.run_tables.main``."""
    from retention.report import run_tables  # pandas takes a second to import

    return run_tables.main(argv)
