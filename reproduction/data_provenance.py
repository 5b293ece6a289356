"""What a column's rows are beside the benchmark that the paper reports."""

from __future__ import annotations

from enum import Enum

from reproduction.paper import Benchmark, benchmark_of
from reproduction.runs import Column

_STAND_IN = "stand-in"


class Rows(Enum):
    """Whose rows were trained and tested on."""

    WHOLE = "the benchmark's rows"
    PART = "a part of the benchmark's rows"
    OTHER = "a stand-in: not the benchmark's rows"


def kind_of_rows(column: Column) -> Rows:
    """Rows count as the benchmark's own only if their description begins with its name and calls them no stand-in."""
    benchmark = benchmark_of(column.task)
    source = column.source
    if benchmark is None or _STAND_IN in source.lower() or not source.startswith(benchmark.names):
        return Rows.OTHER
    whole = column.train == str(benchmark.train) and column.test == str(benchmark.test)
    return Rows.WHOLE if whole else Rows.PART


def rows_mark(column: Column) -> str:
    """For titles: a warning where the rows are not all of the benchmark's, else nothing."""
    return {Rows.WHOLE: "", Rows.PART: ", part of the rows", Rows.OTHER: ", STAND-IN"}[kind_of_rows(column)]


def rows_note(column: Column) -> str:
    """One sentence for the notes of a table."""
    benchmark = benchmark_of(column.task)
    if benchmark is None or kind_of_rows(column) is Rows.OTHER:
        return f"STAND-IN, no benchmark result: {column.source}, {column.train} training and {column.test} test rows"
    told = [_told(column.train, benchmark.train, "training")]
    told.append(_told(column.test, benchmark.test, "test"))
    cut = [f"cut to {column.length} tokens"] if column.length else []
    return ", ".join([f"{column.source}: {' and '.join(told)} rows", *cut])


def backbone_note(column: Column, benchmark: Benchmark) -> str:
    """Says whose encoder this is."""
    if column.backbone == benchmark.backbone:
        return f"Encoder: {column.backbone}, the paper's"
    return f"Encoder: {column.backbone}, not the paper's {benchmark.backbone}; compare relations, not absolute figures"


def _told(count: str, published: int | None, role: str) -> str:
    return f"{count} {role}" if published is None or count == str(published) else f"{count} of {published} {role}"
