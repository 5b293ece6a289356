"""Test the comparison of cache policies: order, differences to the baseline, and records."""

from __future__ import annotations

import pytest
from tests.unit.cache.decoders import tiny_decoder

from retention.cache import CacheBudget, CachePolicy, KeyNorm, LearnedScores, StreamingLLM
from retention.cache.comparison import Measurement, compare_policies
from retention.errors import DataError

BUDGET = CacheBudget(size=16, sinks=2, window=4, per_head=True)
LOSSES = {StreamingLLM: (2.0, 4.0), KeyNorm: (3.0, 6.0), LearnedScores: (2.0, 3.0)}


def measure(policy: CachePolicy | None, budget: CacheBudget) -> Measurement:
    by_text = (1.0, 2.0) if policy is None else LOSSES[type(policy)]
    return Measurement(sum(by_text) / 2, by_text, [40, 40], [24, 24], {"texts": f"{budget.size}.txt"})


def policies() -> dict[str, CachePolicy | None]:
    scores = LearnedScores.for_model(tiny_decoder("llama"))
    scores.origin = {"seed": 3}
    return {"full": None, "key_norm": KeyNorm(), "streaming_llm": StreamingLLM(), "learned": scores}


def test_the_baseline_comes_first_and_others_are_compared_with_it_text_by_text() -> None:
    results = list(compare_policies(tiny_decoder("llama"), policies(), BUDGET, measure, "streaming_llm"))
    assert [result.name for result in results] == ["streaming_llm", "full", "key_norm", "learned"]
    assert [result.difference and result.difference.mean for result in results] == [None, -1.5, 1.5, -0.5]
    low, high = results[2].difference.low, results[2].difference.high  # type: ignore[union-attr]
    assert (low, high) == (1.0, 2.0) and (results[2].interval.low, results[2].interval.high) == (3.0, 6.0)
    assert all(result.seconds >= 0 for result in results)


def test_nothing_is_compared_with_a_baseline_that_was_not_measured() -> None:
    results = list(compare_policies(tiny_decoder("llama"), policies(), BUDGET, measure, "random"))
    assert [result.name for result in results] == list(policies())
    assert all(result.difference is None for result in results)


def test_records_hold_budget_values_and_difference() -> None:
    *_, learned = compare_policies(tiny_decoder("llama"), policies(), BUDGET, measure, "full")
    record = learned.record("loss", model="tiny", task="text")
    assert (record.policy, record.size, record.sinks, record.window, record.per_head) == ("learned", 16, 2, 4, True)
    assert record.loss == 2.5 and list(record.loss_by_text) == [2.0, 3.0] and record.accuracy is None
    assert record.texts == "16.txt" and record.scores == {"seed": 3}
    assert record.interval == {"low": 2.0, "high": 3.0}
    assert record.difference == {"baseline": "full", "mean": 1.0, "low": 1.0, "high": 1.0}
    with pytest.raises(DataError, match="needs loss, accuracy or cost"):
        learned.record("f1", model="tiny", task="text")
