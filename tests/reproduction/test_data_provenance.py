"""Benchmarks, parts of them, and data that stands in for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from reproduction.data_provenance import Provenance, data_note, provenance_of, title_mark

from retention.report.grouping import group_runs

Make = Callable[..., dict[str, Any]]
ALL_ROWS = {"train": 67349, "test": 872}


@pytest.mark.parametrize(
    ("data", "provenance", "mark"),
    [
        ({"source": "SST-2 (GLUE)", **ALL_ROWS}, Provenance.BENCHMARK, ""),
        ({"source": "SST-2 (GLUE)", "train": 10, "test": 872}, Provenance.SUBSET, ", part of the rows"),
        ({"source": "a stand-in for SST-2", **ALL_ROWS}, Provenance.STAND_IN, ", STAND-IN"),
        ({"source": "reviews", **ALL_ROWS}, Provenance.STAND_IN, ", STAND-IN"),
        # the field of newer records takes precedence over the description
        ({"source": "my copy", "provenance": "benchmark", **ALL_ROWS}, Provenance.BENCHMARK, ""),
        ({"source": "my copy", "provenance": "subset", **ALL_ROWS}, Provenance.SUBSET, ", part of the rows"),
        ({"source": "SST-2 (GLUE)", "provenance": "stand_in", **ALL_ROWS}, Provenance.STAND_IN, ", STAND-IN"),
        # undeclared local files are judged by their description
        ({"source": "SST-2 (GLUE)", "provenance": "local", **ALL_ROWS}, Provenance.BENCHMARK, ""),
        ({"source": "files in data", "provenance": "local", **ALL_ROWS}, Provenance.STAND_IN, ", STAND-IN"),
    ],
)
def test_provenance_of_a_benchmark(quality: Make, data: dict[str, Any], provenance: Provenance, mark: str) -> None:
    [setup] = group_runs([quality("dense", 1.0, 0.9, data=data)]).setups()
    assert provenance_of(setup) is provenance and title_mark(setup) == mark
    assert ("no benchmark result" in data_note(setup)) == (provenance is Provenance.STAND_IN)


@pytest.mark.parametrize("field", [{}, {"provenance": "local"}, {"provenance": "generated"}])
def test_tasks_outside_the_paper_carry_no_warning(quality: Make, field: dict[str, str]) -> None:
    data = {"source": "my tickets", "train": 10, "test": 5, "max_length": 64, **field}
    [setup] = group_runs([quality("dense", 1.0, 0.9, task="tickets", data=data)]).setups()
    assert provenance_of(setup) is Provenance.OTHER_TASK and title_mark(setup) == ""
    assert data_note(setup) == "my tickets: 10 training and 5 test rows, cut to 64 tokens"


def test_provenance_does_not_separate_old_runs_from_new(quality: Make) -> None:
    data = {"source": "SST-2 (GLUE)", **ALL_ROWS}
    records = [
        quality("dense", 1.0, 0.9, 0, data=data),
        quality("dense", 1.0, 0.8, 1, data={**data, "provenance": "benchmark"}),
    ]
    [group] = group_runs(records).all
    assert len(group.records) == 2
