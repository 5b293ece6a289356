"""The paper's tables and figures, the leaderboard and the ledger of claims, from result records alone.

    python scripts/report.py table1 table2            # or leaderboard, figures, claims, all
    python scripts/report.py leaderboard --records outputs/sweeps/leaderboard/records.jsonl

Committed records (results/quality, results/sweeps, results/speed) are always read; --records adds local ones. Tables
are printed, and written as Markdown, CSV and LaTeX; figures as PNG and SVG. A cell without a record says "not run".
The ledger (docs/claims.md) is made from the committed records alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from retention.analysis.claims import ledger
from retention.analysis.cost_report import cost_report
from retention.analysis.depth_report import depth_report
from retention.analysis.figures import draw_figure2, draw_figures
from retention.analysis.leaderboard import leaderboard
from retention.analysis.quality_report import ablation_report, quality_report
from retention.analysis.sheet import Report, markdown, write_report
from retention.analysis.sources import Evidence, committed_files, read_evidence
from retention.errors import RetentionError
from retention.records import write_atomic

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "docs" / "claims.md"
TABLES: dict[str, Callable[[Evidence], Report]] = {
    "table1": lambda evidence: quality_report(evidence.runs, 0.5),
    "table2": lambda evidence: quality_report(evidence.runs, 0.3),
    "table3": lambda evidence: ablation_report(evidence.runs),
    "table4": lambda evidence: cost_report(evidence.speeds),
    "table5": lambda evidence: depth_report(evidence.runs, 5),
    "table6": lambda evidence: depth_report(evidence.runs, 6),
    "leaderboard": lambda evidence: leaderboard(evidence.runs, evidence.speeds),
}
FIGURES = {"figure2": draw_figure2, "figures": draw_figures}
NAMES = (*TABLES, *FIGURES, "claims")


def main(argv: Sequence[str] | None = None) -> int:
    """Make what was asked for; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("wanted", nargs="+", choices=[*NAMES, "all"], metavar="NAME", help=f"{', '.join(NAMES)}, or all")
    words.add_argument(
        "--records", nargs="+", type=Path, default=[], help="local record files beside the committed ones"
    )
    words.add_argument("--out", type=Path, default=ROOT / "outputs" / "report", help="folder of tables and figures")
    chosen = words.parse_args(argv)
    wanted = [name for name in NAMES if name in chosen.wanted or "all" in chosen.wanted]
    try:
        committed = read_evidence(committed_files(ROOT), ROOT)
        evidence = Evidence((*committed.records, *read_evidence(chosen.records, ROOT).records))
        for name in wanted:
            files = make(name, committed if name == "claims" else evidence, chosen.out)
            print(f"{name}: {', '.join(os.path.relpath(file) for file in files)}", file=sys.stderr)
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def make(name: str, evidence: Evidence, folder: Path) -> list[Path]:
    """Make one of ``NAMES``; returns the files."""
    if name in FIGURES:
        return FIGURES[name](evidence, folder)
    if name == "claims":
        write_atomic(CLAIMS, ledger(evidence))
        return [CLAIMS]
    report = TABLES[name](evidence)
    print(markdown(report))
    return write_report(report, folder)


if __name__ == "__main__":
    sys.exit(main())
