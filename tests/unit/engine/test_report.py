"""Test the report of a forward pass: how many gates kept each token."""

from __future__ import annotations

import torch

from retention.engine.report import ForwardReport


def report(**keep_indices: list[list[int]]) -> ForwardReport:
    kept = {int(name.removeprefix("layer")): torch.tensor(rows) for name, rows in keep_indices.items()}
    rows = len(next(iter(kept.values()))) if kept else 2
    return ForwardReport(lengths=torch.full((rows,), 5), keep_indices=kept)


def test_depth_counts_the_gates_that_kept_a_token() -> None:
    depth = report(layer0=[[0, 2, 4, -1], [0, 1, 2, 3]], layer3=[[0, 4], [3, -1]]).depth((0, 3), 5)
    assert depth.tolist() == [[2, 0, 1, 0, 2], [1, 1, 1, 2, 0]]


def test_missing_gate_removed_nothing() -> None:
    depth = report(layer1=[[0, 2, 3]]).depth((0, 1, 2), 4)
    assert depth.tolist() == [[3, 1, 3, 3]]


def test_depth_is_zero_without_gates() -> None:
    assert report().depth((), 3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_survived_tokens_were_kept_by_every_gate() -> None:
    made = report(layer0=[[0, 2, 4, -1], [0, 1, 2, 3]], layer3=[[0, 4], [3, -1]])
    assert torch.equal(made.survived(5), made.depth((0, 3), 5) == 2)
    assert report().survived(3).all()
