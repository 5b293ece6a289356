"""Tell the paper's benchmarks from parts of them and from data that stands in for them."""

from __future__ import annotations

from enum import Enum

from reproduction.paper import Benchmark, benchmark_of
from retention.report.grouping import EvaluationSetup

_STAND_IN = "stand-in"


class Provenance(Enum):
    """Relation of a setup's data to the benchmark that the paper reports."""

    BENCHMARK = "all rows of the benchmark"
    SUBSET = "a part of the benchmark's rows"
    STAND_IN = "other rows that stand in for the benchmark"
    OTHER_TASK = "a task that the paper does not report"


# Values of the field ``provenance`` in records; "local" files are judged by the description of their source.
_RECORDED = {
    "benchmark": Provenance.BENCHMARK,
    "subset": Provenance.SUBSET,
    "stand_in": Provenance.STAND_IN,
    "generated": Provenance.STAND_IN,
}


def provenance_of(setup: EvaluationSetup) -> Provenance:
    """Return the provenance of a setup's data.

    Records without the field are judged by their source: rows count as the benchmark's if their description begins
    with its name and does not call them a stand-in.
    """
    benchmark = benchmark_of(setup.task)
    if benchmark is None:
        return Provenance.OTHER_TASK
    if setup.provenance in _RECORDED:
        return _RECORDED[setup.provenance]
    if _STAND_IN in setup.source.lower() or not setup.source.startswith(benchmark.names):
        return Provenance.STAND_IN
    complete = setup.train == str(benchmark.train) and setup.test == str(benchmark.test)
    return Provenance.BENCHMARK if complete else Provenance.SUBSET


def title_mark(setup: EvaluationSetup) -> str:
    """Return a warning for titles where the data is not the whole benchmark, else an empty string."""
    return {Provenance.SUBSET: ", part of the rows", Provenance.STAND_IN: ", STAND-IN"}.get(provenance_of(setup), "")


def data_note(setup: EvaluationSetup) -> str:
    """Describe a setup's data in one sentence, for the notes of a table."""
    if provenance_of(setup) is Provenance.STAND_IN:
        rows = f"{setup.train} training and {setup.test} {setup.evaluated} rows"
        return f"STAND-IN, no benchmark result: {setup.source}, {rows}"
    benchmark = benchmark_of(setup.task)
    train = _count(setup.train, None if benchmark is None else benchmark.train)
    published = benchmark.test if benchmark is not None and setup.evaluated == "test" else None
    evaluated = f"{_count(setup.test, published)} {setup.evaluated}"
    cut = f", cut to {setup.length} tokens" if setup.length else ""
    return f"{setup.source}: {train} training and {evaluated} rows{cut}"


def backbone_note(setup: EvaluationSetup, benchmark: Benchmark) -> str:
    """Say whether the encoder is the paper's."""
    if setup.backbone == benchmark.backbone:
        return f"Encoder: {setup.backbone}, the paper's"
    return f"Encoder: {setup.backbone}, not the paper's {benchmark.backbone}; compare differences, not absolute figures"


def _count(rows: str, published: int | None) -> str:
    is_part = published is not None and rows.isdigit() and int(rows) < published
    return f"{rows} of {published}" if is_part else rows
