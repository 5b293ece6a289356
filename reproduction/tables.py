"""Write reports of several tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from retention.records import write_atomic
from retention.report.tables import markdown_table, text_frame


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        caption: describes the data of the table.
        header: names of the columns.
        rows: one text per column.
        notes: lines below the table.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """Header and rows as a data frame."""
        return text_frame(self.header, self.rows)


@dataclass(frozen=True)
class Report:
    """Tables with the same columns, under a title.

    Attributes:
        name: stem of the files.
        title: heading.
        legend: explanation of the columns.
        tables: tables with the same columns.
        overview: the main figures of the tables in short; CSV leaves it out.
    """

    name: str
    title: str
    legend: str
    tables: Sequence[Table]
    overview: Table | None = None

    def __post_init__(self) -> None:
        if len({tuple(table.header) for table in self.tables}) > 1:
            raise ValueError(f"{self.name}: all tables of a report must have the same columns")

    @property
    def parts(self) -> list[Table]:
        """Overview, if there is one, and tables."""
        return [*([] if self.overview is None else [self.overview]), *self.tables]


def to_markdown(report: Report) -> str:
    """Return a report as Markdown that is also readable as text."""
    blocks = [f"# {report.title}", report.legend]
    for table in report.parts:
        blocks += [f"## {table.caption}", markdown_table(table.frame), "\n".join(f"- {note}" for note in table.notes)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_csv(report: Report) -> str:
    """Return all tables of a report as one CSV table, with caption and notes as first and last column."""
    frames = [
        text_frame(
            ["table", *table.header, "notes"],
            [[table.caption, *row, "; ".join(table.notes)] for row in table.rows],
        )
        for table in report.tables
    ]
    return str(pd.concat(frames).to_csv(index=False)) if frames else ""


def to_latex(report: Report) -> str:
    """Return a ``table`` environment per table; needs the packages booktabs and graphicx."""
    head = f"% {report.title}; needs \\usepackage{{booktabs,graphicx}} and UTF-8 input\n"
    return head + "\n".join(_latex_table(report, table) for table in report.parts)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``<name>.md``, ``.csv`` and ``.tex``; return their paths."""
    texts = {".md": to_markdown(report), ".csv": to_csv(report), ".tex": to_latex(report)}
    paths = [folder / f"{report.name}{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text)
    return paths


def _latex_table(report: Report, table: Table) -> str:
    alignment = ["left", *["right"] * (len(table.header) - 1)]
    tabular = tabulate(table.rows, table.header, "latex_booktabs", disable_numparse=True, colalign=alignment)
    caption = " ".join([f"{report.title}. {table.caption}.", *(f"{note}." for note in table.notes)])
    return (
        "\\begin{table}[ht]\n\\centering\n"
        f"\\caption{{{_escape_latex(caption)}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular}}}\n"
        "\\end{table}\n"
    ).replace("±", r"$\pm$")


def _escape_latex(text: str) -> str:
    """Escape a text by the rules that tabulate applies to cells."""
    return tabulate([[text]], tablefmt="latex", disable_numparse=True).splitlines()[2].removesuffix(r"\\").strip()
