"""Tables, figures and the ledger of claims, from result records alone; runs nothing.

    python scripts/report.py table1 table2 figure2
    python scripts/report.py leaderboard --records outputs/sweeps/leaderboard/records.jsonl
    python scripts/report.py pareto --task sst2

Reads the committed records of results/quality, results/sweeps and results/speed, and those of --records besides. Tables
are written as Markdown, CSV and LaTeX, figures as PNG and SVG, the ledger to docs/claims.md; ``quality`` prints the
table that a run leaves, over all records.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from reproduction.claims import ledger
from reproduction.cost_report import cost_report
from reproduction.depth_report import depth_report
from reproduction.figures import depth_figure, knob_figure, pareto_figure, speed_figure
from reproduction.leaderboard import leaderboard
from reproduction.quality_report import ablation_report, quality_report
from reproduction.sources import Evidence, committed_files, read_evidence
from reproduction.tables import Report, markdown, write_report

from retention.errors import DataError, RetentionError
from retention.records import write_atomic
from retention.report.figure_style import save
from retention.report.quality_table import quality_table

ROOT = Path(__file__).resolve().parent.parent
TABLES: dict[str, Callable[[Evidence], Report]] = {
    "table1": lambda evidence: quality_report(evidence.runs, 0.5),
    "table2": lambda evidence: quality_report(evidence.runs, 0.3),
    "table3": lambda evidence: ablation_report(evidence.runs),
    "table4": lambda evidence: cost_report(evidence.speeds),
    "table5": lambda evidence: depth_report(evidence.runs, 5),
    "table6": lambda evidence: depth_report(evidence.runs, 6),
    "leaderboard": lambda evidence: leaderboard(evidence.runs, evidence.speeds),
}
FIGURES: dict[str, Callable[[Evidence], Figure]] = {
    "figure2": lambda evidence: knob_figure(evidence.records),
    "pareto": lambda evidence: pareto_figure(evidence.runs),
    "speed": lambda evidence: speed_figure(evidence.runs, evidence.speeds),
    "depth": lambda evidence: depth_figure(evidence.runs),
}
GROUPS = {"tables": tuple(TABLES), "figures": tuple(FIGURES)}
NAMES = (*TABLES, *FIGURES, *GROUPS, "claims", "quality")


def main(argv: Sequence[str] | None = None) -> int:
    """Make what was asked for; returns the exit status."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("wanted", nargs="+", choices=NAMES, metavar="REPORT", help=", ".join(NAMES))
    words.add_argument("--records", nargs="+", type=Path, default=[], help="more files of records, such as local runs")
    words.add_argument("--task", nargs="+", default=[], help="only the runs of these tasks, for example sst2 imdb")
    words.add_argument("--out", type=Path, help="folder (default: outputs/report; docs for the ledger)")
    chosen = words.parse_args(argv)
    try:
        if "claims" in chosen.wanted and (chosen.records or chosen.task) and chosen.out is None:
            message = "docs/claims.md holds all committed records and these alone; give --out to see a ledger of others"
            raise DataError(message)
        evidence = read_evidence([*committed_files(ROOT), *chosen.records], ROOT)
        if chosen.task:
            evidence = evidence.of_tasks(chosen.task)
        for name in dict.fromkeys(part for word in chosen.wanted for part in GROUPS.get(word, (word,))):
            for path in _make(name, evidence, chosen.out):
                print(os.path.relpath(path))
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _make(name: str, evidence: Evidence, out: Path | None) -> list[Path]:
    folder = out or ROOT / "outputs" / "report"
    if name in TABLES:
        report = TABLES[name](evidence)
        print(markdown(report))
        return write_report(report, folder)
    if name in FIGURES:
        return save(FIGURES[name](evidence), folder / name)
    if name == "claims":
        path = (out or ROOT / "docs") / "claims.md"
        write_atomic(path, ledger(evidence))
        return [path]
    print(quality_table(evidence.records))
    return []


if __name__ == "__main__":
    sys.exit(main())
