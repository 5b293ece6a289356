"""Draw speed records: speed-up by share and length, break-even, share of the ideal, tokens and memory by depth.

Reads records alone and runs nothing. Figures are written as PNG and SVG.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from retention.bench.curves import panels
from retention.bench.plots import draw_all
from retention.errors import RetentionError
from retention.records import read_records

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Draw everything that the records have points for; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("records", nargs="*", type=Path, help="files of records (default: results/speed/*.jsonl)")
    words.add_argument("--out", type=Path, default=ROOT / "outputs" / "speed", help="folder of the figures")
    chosen = words.parse_args(argv)
    try:
        files = draw_all(
            panels(read_records(chosen.records or sorted((ROOT / "results/speed").glob("*.jsonl")))), chosen.out
        )
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print("\n".join(os.path.relpath(file) for file in files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
