"""Train on two processes on this machine, check the results, and append one record per check.

    python -m reproduction.distributed                       # appends to results/reliability/distributed.jsonl
    python -m reproduction.distributed --record <file> --folder <new folder>

Takes minutes on two CPU cores; needs neither network nor GPU. The processes talk by gloo.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from reproduction.distributed.checks import CHECKS, evaluate, jobs_of
from reproduction.distributed.jobs import JOBS
from reproduction.distributed.launch import ROOT
from reproduction.distributed.runs import run_all
from retention.records import append_record, build_record

RECORD_FILE = ROOT / "results" / "reliability" / "distributed.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; return 1 if one of them found a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction.distributed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--record", type=Path, default=RECORD_FILE, help="file that the records are appended to")
    parser.add_argument("--check", nargs="+", choices=CHECKS, metavar="CHECK", help="some of: " + ", ".join(CHECKS))
    parser.add_argument("--folder", type=Path, help="new folder that keeps the runs (default: a temporary one)")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        names = None if arguments.check is None else jobs_of(arguments.check)
        runs = run_all(arguments.folder or Path(temporary), names)
        config = {job.name: {"typed": list(job.typed), "change": job.change} for job in JOBS}
        for check in arguments.check or CHECKS:
            result = evaluate(check, runs)
            words = ["-m", "reproduction.distributed", "--check", check]
            record = build_record(result, config=config, seed=0, wall_s=time.monotonic() - started, argv=words)
            append_record(arguments.record, record)
            wrong += result.wrong
            print(f"{check}: {result.clear} of {result.tried} right")
            for label, holds in result.details["cases"].items():
                print(f"  {'ok   ' if holds else 'WRONG'} {label}")
        if runs.two.status != 0:
            print(runs.two.output[-4000:], file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
