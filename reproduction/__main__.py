"""Make tables, figures and pages from result records; only ``theory`` and ``reliability`` run anything.

    python -m reproduction table1 table2 figure2
    python -m reproduction leaderboard --records outputs/sweeps/leaderboard/records.jsonl
    python -m reproduction pareto --task sst2
    python -m reproduction equal_time --task newsgroups20
    python -m reproduction readme
    python -m reproduction theory
    python -m reproduction reliability --only threads payloads

Reads the committed records of results/quality, results/sweeps, results/speed and results/paired, and the files of
--records. Tables are written as Markdown, CSV and LaTeX, figures as PNG and SVG, claims to docs/claims.md and
docs/claims_ledger.md. ``readme`` writes the generated tables of README.md and docs/*.md (see
``reproduction.check_figures``); ``quality`` prints a table of all runs.

``theory`` checks the paper's propositions on small exact instances (minutes on one core), appends a record per claim to
results/theory and writes docs/theory.md with its figures; ``theory_page`` writes the page from the committed records,
those of trained models among them (``python -m reproduction.theory``).

``reliability`` runs the reliability checks (an hour on one core; ``--only`` chooses some), appends a record per check
to results/reliability and writes docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from reproduction.check_figures import update_pages
from reproduction.claims import LEDGER, claims_ledger, claims_page
from reproduction.cost_report import cost_report
from reproduction.depth_report import depth_report
from reproduction.figures import (
    depth_figure,
    equal_time_figure,
    hyperparameter_figure,
    overview_figure,
    pareto_figure,
    speed_figure,
    tokens_figure,
)
from reproduction.leaderboard import leaderboard
from reproduction.quality_report import ablation_report, quality_report
from reproduction.schedule_report import schedule_report
from reproduction.sources import RecordSet, committed_files, read_record_set
from reproduction.tables import Report, to_markdown, write_report
from retention.errors import DataError, RetentionError
from retention.records import append_record, write_atomic
from retention.report.figure_style import save_figure
from retention.report.quality_table import quality_table

ROOT = Path(__file__).resolve().parent.parent
TABLES: dict[str, Callable[[RecordSet], Report]] = {
    "table1": lambda records: quality_report(records.runs, 0.5),
    "table2": lambda records: quality_report(records.runs, 0.3),
    "table3": lambda records: ablation_report(records.runs),
    "table4": lambda records: cost_report(records.speeds),
    "table5": lambda records: depth_report(records.runs, 5),
    "table6": lambda records: depth_report(records.runs, 6),
    "schedules": lambda records: schedule_report(records.runs),
    "leaderboard": lambda records: leaderboard(records.runs, records.speeds),
}
FIGURES: dict[str, Callable[[RecordSet], Figure]] = {
    "figure2": lambda records: hyperparameter_figure(records.records),
    "overview": lambda records: overview_figure(records.runs),
    "pareto": lambda records: pareto_figure(records.runs),
    "equal_time": lambda records: equal_time_figure(records),
    "speed": lambda records: speed_figure(records.runs, records.speeds),
    "depth": lambda records: depth_figure(records.runs),
    "tokens_per_layer": lambda records: tokens_figure(ROOT),
}
GROUPS = {"tables": tuple(TABLES), "figures": tuple(FIGURES)}
PAGES = (
    "claims",
    "readme",
    "theory",
    "theory_page",
    "reliability",
)  # committed pages, made from committed records only
_FIXED = {"readme", "theory", "theory_page", "reliability"}  # other records cannot be added, not even with --out
NAMES = (*TABLES, *FIGURES, *GROUPS, *PAGES, "quality")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the requested tables, figures and pages; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--records", nargs="+", type=Path, default=[], help="more record files, such as local runs")
    parser.add_argument("--task", nargs="+", default=[], help="only the runs of these tasks, for example sst2 imdb")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help="checks of reliability; default: all")
    parser.add_argument("--out", type=Path, help="output folder (default: outputs/report; docs for claims)")
    arguments = parser.parse_args(argv)
    try:
        local = bool(arguments.records or arguments.task)
        if local and (set(arguments.names) & _FIXED or ("claims" in arguments.names and arguments.out is None)):
            raise DataError(
                "committed pages are made from all committed records alone: leave out --records and --task, or give "
                "--out to write the claims page of other records"
            )
        records = read_record_set([*committed_files(ROOT), *arguments.records], ROOT)
        if arguments.task:
            records = records.of_tasks(arguments.task)
        for name in dict.fromkeys(part for group in arguments.names for part in GROUPS.get(group, (group,))):
            for path in _make(name, records, arguments.out, arguments.only):
                print(os.path.relpath(path))
    except RetentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _make(name: str, records: RecordSet, out: Path | None, only: Sequence[str]) -> list[Path]:
    """Make one table, figure or page; return the files it was written to."""
    folder = out or ROOT / "outputs" / "report"
    if name in TABLES:
        report = TABLES[name](records)
        print(to_markdown(report))
        return write_report(report, folder)
    if name in FIGURES:
        return save_figure(FIGURES[name](records), folder / name)
    if name == "claims":
        paths = [(out or ROOT / "docs") / name for name in ("claims.md", LEDGER)]
        for path, page in zip(paths, (claims_page(records), claims_ledger(records)), strict=True):
            write_atomic(path, page)
        return paths
    if name == "readme":
        return update_pages(ROOT, records)
    if name in ("theory", "theory_page"):
        return _make_theory(name == "theory", records, out)
    if name == "reliability":
        return _run_reliability(out, only)
    print(quality_table(records.records))
    return []


def _run_reliability(out: Path | None, only: Sequence[str]) -> list[Path]:
    """Run the reliability checks, append a record after each, and write the page (both below ``out``, if given)."""
    from reproduction.reliability import page as reliability
    from reproduction.reliability.registry import run_checks  # needs the extra serve, unlike the other names

    folder = ROOT / reliability.RECORDS if out is None else out
    page = (ROOT / "docs" if out is None else out) / "reliability.md"
    for name, record in run_checks(only):
        append_record(folder / f"{name}.jsonl", record)
        records = read_record_set(sorted(folder.glob("*.jsonl")), ROOT).records
        write_atomic(page, reliability.reliability_page(records))
    return [page]


def _make_theory(run: bool, records: RecordSet, out: Path | None) -> list[Path]:
    """Write the theory page; with ``run``, run the lab first and append its records (in ``out``, if given)."""
    from reproduction import theory  # needs transformers, unlike the other names

    if not run:
        return theory.write_theory_page(records.records, out or ROOT / "docs")
    path = ROOT / theory.RECORDS if out is None else out / theory.RECORDS.name
    for record in theory.run_theory_lab(theory.CLAIMS):
        append_record(path, record)
    records = read_record_set(sorted(path.parent.glob("*.jsonl")), ROOT)  # those of trained models as well
    return [path, *theory.write_theory_page(records.records, out or ROOT / "docs")]


if __name__ == "__main__":
    sys.exit(main())
