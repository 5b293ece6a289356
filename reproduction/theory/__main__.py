r"""Check Lemma 1 and Theorem 1 on the model of a run, in minutes on one core.

    python -m reproduction.theory <run folder> --data <folder> --record results/theory/trained_model.jsonl
    python -m reproduction theory_page

The run is one of a classification task with ``retention=adaptive`` or ``retention=paper`` and short test rows, such as
SST-2: the masks of a row are enumerated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.theory.evidence import read_evidence
from reproduction.theory.lab import run_theory_lab
from reproduction.theory.trained_model import trained_claims
from retention.errors import RetentionError, option_names
from retention.records import append_record


def main(argv: Sequence[str] | None = None) -> int:
    """Check the model of a run; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.theory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="folder with the task's test file (default: the hub)")
    parser.add_argument("--record", type=Path, help="JSON Lines file that the results are appended to")
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    try:
        with option_names({"data.dir": "--data"}):
            claims = trained_claims(arguments.run, arguments.data)
            records = run_theory_lab(claims, ["-m", "reproduction.theory", *words])
            for claim, record in zip(claims, records, strict=True):
                print(f"{claim.title}: {record['verdict']}\n{claim.describe(read_evidence(record))}")
                if arguments.record is not None:
                    append_record(arguments.record, record)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
