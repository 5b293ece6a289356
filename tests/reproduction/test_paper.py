"""Figures of the paper."""

from __future__ import annotations

import pytest
from reproduction.paper import ABLATIONS, ADAPTIVE, BENCHMARKS, BUDGETS, METHODS, reported


@pytest.mark.parametrize(
    ("method", "rho", "task", "metric", "value"),
    [
        ("Full Transformer", 0.5, "sst2", "accuracy", 92.1),
        ("Random pruning", 0.3, "qasper", "F1", 25.0),
        ("BigBird", 0.3, "cuad", "macro-F1", 85.0),
        ("Adaptive Retention", 0.3, "pubmed", "ROUGE-L", 21.0),
        ("no variational relaxation", 0.3, "qasper", "EM", 40.0),
        ("threshold pruning", 0.5, "cuad", "micro-F1", 82.0),
    ],
)
def test_cells_match_the_paper(method: str, rho: float, task: str, metric: str, value: float) -> None:
    assert reported(method, rho, task, metric) == value


def test_every_cell_has_a_value() -> None:
    for method in (*METHODS, *ABLATIONS):
        for benchmark in BENCHMARKS:
            for metric in benchmark.metrics:
                assert all(reported(method.title, rho, benchmark.task, metric) for rho in BUDGETS)


def test_tables_1_to_3_agree_on_the_full_method() -> None:
    from reproduction.paper import _TABLE_3

    row = [pair.split("/") for pair in _TABLE_3[ADAPTIVE.title].split()]
    columns = [(benchmark.task, metric) for benchmark in BENCHMARKS for metric in benchmark.metrics]
    for (task, metric), pair in zip(columns, row, strict=True):
        assert [reported(ADAPTIVE.title, rho, task, metric) for rho in BUDGETS] == [float(value) for value in pair]


@pytest.mark.parametrize(("method", "rho", "task"), [("nobody", 0.5, "sst2"), ("H2O", 0.2, "sst2"), ("H2O", 0.5, "x")])
def test_unreported_figures_are_none(method: str, rho: float, task: str) -> None:
    assert reported(method, rho, task, "accuracy") is None
