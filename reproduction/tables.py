"""Reports of tables, written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retention.records import write_atomic

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}
_MARKDOWN = str.maketrans({"|": "\\|"})


@dataclass(frozen=True)
class Section:
    """One table; every row has as many cells as the header.

    Attributes:
        caption: what the figures rest on.
        header: names of the columns.
        rows: cells as text.
        notes: lines below the table.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Sections with one header, under a title.

    Attributes:
        name: name of the files.
        title: heading.
        legend: how to read the columns.
        sections: tables with the same header.
        overview: the same figures in short; it has nothing that the sections lack, so CSV leaves it out.
    """

    name: str
    title: str
    legend: tuple[str, ...]
    sections: tuple[Section, ...]
    overview: Section | None = None

    def __post_init__(self) -> None:
        if len({section.header for section in self.sections}) > 1:
            raise ValueError(f"{self.name}: the sections of a report share one header")

    def parts(self) -> tuple[Section, ...]:
        """The overview, where there is one, and the sections."""
        return self.sections if self.overview is None else (self.overview, *self.sections)


def markdown(report: Report) -> str:
    """The report as Markdown that also reads as text."""
    blocks = [f"# {report.title}", " ".join(report.legend)]
    for section in report.parts():
        blocks.append(f"## {section.caption}")
        blocks.append("\n".join(aligned([section.header, *section.rows])))
        blocks += ["\n".join(f"- {note}" for note in section.notes)] if section.notes else []
    return "\n\n".join(block for block in blocks if block) + "\n"


def comma_separated(report: Report) -> str:
    """All rows of the sections under one header, the caption in the first column."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if report.sections:
        writer.writerow(["table", *report.sections[0].header, "notes"])
    for section in report.sections:
        writer.writerows([section.caption, *row, "; ".join(section.notes)] for row in section.rows)
    return lines.getvalue()


def latex(report: Report) -> str:
    """One ``table`` per section; needs the packages booktabs and graphicx."""
    head = f"% {report.title}; needs \\usepackage{{booktabs,graphicx}} and UTF-8 input\n"
    return head + "\n".join(_latex_table(report, section) for section in report.parts())


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``<name>.md``, ``.csv`` and ``.tex``; returns their paths."""
    texts = {".md": markdown(report), ".csv": comma_separated(report), ".tex": latex(report)}
    paths = [folder / f"{report.name}{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text)
    return paths


def aligned(body: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines with every column as wide as its widest cell; the first column left, the others right."""
    escaped = [[cell.translate(_MARKDOWN) for cell in line] for line in body]
    widths = [max(3, *(len(line[place]) for line in escaped)) for place in range(len(escaped[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for line in [escaped[0], rule, *escaped[1:]]:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _latex_table(report: Report, section: Section) -> str:
    body = [" & ".join(map(_latex_text, row)) + r" \\" for row in section.rows]
    caption = " ".join([f"{report.title}. {section.caption}.", *(f"{note}." for note in section.notes)])
    lines = [
        r"\begin{table}[ht]",
        r"\centering",
        rf"\caption{{{_latex_text(caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(section.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex_text, section.header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
