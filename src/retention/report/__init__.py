"""Turn result records and retention profiles into tables and pages; loads no model."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``retention report``; see ``retention.report.quality_table.main``."""
    from retention.report import quality_table  # pandas takes a second to import

    return quality_table.main(argv)
