"""Tests of the search for the best spans, and of what became of given spans."""

from __future__ import annotations

import pytest
import torch

from retention.tasks.question_answering.span_search import best_spans, complete_spans, span_means


def test_best_spans_equal_exhaustive_search() -> None:
    generator = torch.Generator().manual_seed(3)
    starts, ends = torch.randn(2, 3, 7, generator=generator)
    spans, scores = best_spans(starts, ends, 7, 3)
    for row in range(3):
        score_of = {(a, b): float(starts[row, a] + ends[row, b]) for a in range(7) for b in range(a, min(a + 3, 7))}
        ranked = sorted(score_of, key=lambda span: -score_of[span])[:7]
        assert [tuple(span) for span in spans[row].tolist()] == ranked
        assert scores[row].tolist() == pytest.approx([score_of[span] for span in ranked])


def test_missing_spans_have_infinite_negative_score() -> None:
    spans, scores = best_spans(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), 9, 5)
    assert spans[0, :2].tolist() in ([[0, 1], [1, 1]], [[1, 1], [0, 1]])
    assert scores[0].tolist()[:3] == [1.0, 1.0, 0.0] and scores[0, 3] == -torch.inf


def test_complete_spans_by_hand() -> None:
    spans = torch.tensor([[[0, 1], [1, 3], [3, 3], [-1, -1]]])
    present = torch.tensor([[True, True, False, True]])
    assert complete_spans(spans, present).tolist() == [[True, False, True, False]]


def test_span_means_by_hand() -> None:
    spans = torch.tensor([[[0, 1], [1, 2], [3, 3], [-1, -1]]])
    assert span_means(spans, torch.tensor([[1.0, 0.5, 0.0, 0.25]])).tolist() == [[0.75, 0.25, 0.25, 0.0]]
